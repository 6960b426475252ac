//! The thread of a broker's first shard, seen from outside.

use std::fs;
use std::path::PathBuf;

/// Its name: see `top -H`.
const NAME: &str = "catena-0";

/// One thread.
#[derive(Debug)]
pub(super) struct Shard {
    stat: PathBuf,
}

impl Shard {
    /// Looks for it among the threads of a process.
    ///
    /// # Panics
    /// If it is not there.
    pub(super) fn find(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
        let named = threads.flatten().map(|entry| entry.path()).find(|path| {
            let name = fs::read_to_string(path.join("comm"));
            name.is_ok_and(|name| name.trim_end() == NAME)
        });
        let stat = named.expect("the broker has a shard").join("stat");
        Self { stat }
    }

    /// Whether it waits for an event: not running, and not ready to run.
    ///
    /// # Panics
    /// If it is gone.
    pub(super) fn sleeps(&self) -> bool {
        let stat = fs::read_to_string(&self.stat).expect("the thread is there");
        state(&stat) == Some('S')
    }
}

/// The third field. The second is the name in parentheses, which may hold anything.
fn state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_thread_is_read_whatever_its_name_is() {
        assert_eq!(state("17 (catena-0) S 1 17"), Some('S'));
        assert_eq!(state("17 (a) S (b) R 1 17"), Some('R'));
        assert_eq!(state("17 (catena-0"), None);
    }
}
