//! What the kernel says of a process: memory, descriptors, threads, processor time.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::CpuSet;

/// One look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Processor time used so far, user and system, in clock ticks (100 a second).
    pub cpu_ticks: u64,
}

/// The threads of this process whose name begins like this.
///
/// # Panics
/// If the kernel does not list them.
pub fn threads_named(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc/self/task").expect("a Linux host");
    let names = entries.filter_map(|entry| {
        // None if it has ended since the directory was read.
        fs::read_to_string(entry.expect("an entry").path().join("comm")).ok()
    });
    let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
    names.retain(|name| name.starts_with(prefix));
    names
}

/// The files below a directory that this process has open.
///
/// # Panics
/// If the kernel does not list them.
pub fn open_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc/self/fd").expect("a Linux host");
    let files = entries.filter_map(|entry| fs::read_link(entry.expect("an entry").path()).ok());
    files.filter(|file| file.starts_with(dir)).collect()
}

/// Looks at a process.
///
/// # Panics
/// If it is gone or belongs to somebody else.
pub fn sample(pid: u32) -> Sample {
    let dir = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(dir.join("status")).expect("the process is there");
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("/proc/{pid}/status has {name}"))
    };
    let resident_kib: u64 = number("VmRSS:");
    let descriptors = fs::read_dir(dir.join("fd")).expect("its descriptors can be listed");
    Sample {
        resident_bytes: resident_kib << 10,
        descriptors: u64::try_from(descriptors.count()).expect("a count fits"),
        threads: number("Threads:"),
        cpu_ticks: cpu_ticks(&dir),
    }
}

fn cpu_ticks(dir: &Path) -> u64 {
    let stat = fs::read_to_string(dir.join("stat")).expect("the process is there");
    // The second field is the name in parentheses, which may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(11).take(2);
    ticks
        .map(|word| word.parse::<u64>().expect("a number"))
        .sum()
}

/// Keeps this thread, and every thread and process that it starts from now on, to one core.
///
/// # Panics
/// If it may not run there.
pub fn keep_to(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).expect("this machine has the core");
}

/// The cores of this thread, to keep a broker with one shard apart from its load.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// All that the thread may use.
    pub all: CpuSet,
    /// The first of them: a broker with one shard takes it.
    pub first: usize,
    /// The others, or all if there is only one.
    pub others: CpuSet,
}

impl Cores {
    /// Asks the kernel.
    ///
    /// # Panics
    /// If it does not tell.
    pub fn of_this_thread() -> Self {
        let all = rustix::thread::sched_getaffinity(None).expect("a thread may ask for its cores");
        let first = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core));
        let first = first.expect("a thread may run somewhere");
        let mut others = all;
        others.unset(first);
        if others.count() == 0 {
            others = all;
        }
        Self { all, first, others }
    }
}

/// Lets this thread, and every thread and process that it starts from now on, run on these cores.
///
/// # Panics
/// If it may not.
pub fn allow(cores: &CpuSet) {
    rustix::thread::sched_setaffinity(None, cores).expect("it ran there before");
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn this_process_has_memory_and_threads() {
        let sample = sample(std::process::id());
        assert!(sample.resident_bytes > 100_000, "{sample:?}");
        assert!(sample.descriptors >= 3 && sample.threads >= 1, "{sample:?}");
    }

    #[test]
    fn threads_and_open_files_of_this_process_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let file = File::create(&path).expect("a file");
        assert_eq!(open_below(dir.path()), [path]);
        drop(file);
        assert!(open_below(dir.path()).is_empty());
        let thread = std::thread::Builder::new().name("listed-1".to_owned());
        let seen = thread.spawn(|| threads_named("listed-")).expect("a thread");
        assert_eq!(seen.join().expect("no panic"), ["listed-1"]);
    }
}
