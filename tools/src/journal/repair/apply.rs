//! Carries a plan out: first everything that will change is copied and flushed, then it changes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::plan::Action;

/// Of a flipped bit, the page around it is kept.
const PAGE_BYTES: u64 = 4096;

/// Gives the directory that holds what was there before.
pub(super) fn apply(store: &Path, actions: &[Action]) -> anyhow::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let quarantine = store.join(format!("quarantine-{now}"));
    fs::create_dir(&quarantine).with_context(|| format!("make {}", quarantine.display()))?;
    for action in actions {
        keep(store, &quarantine, action)?;
    }
    let manifest = serde_json::to_vec_pretty(actions)?;
    write_file(&quarantine.join("manifest.json"), &manifest)?;
    sync_dir(&quarantine)?;
    sync_dir(store)?;
    for action in actions {
        carry_out(action)?;
    }
    Ok(quarantine)
}

/// Copies what an action will change.
fn keep(store: &Path, quarantine: &Path, action: &Action) -> anyhow::Result<()> {
    let (file, range) = match action {
        Action::Write {
            file, at, bytes, ..
        } => (file, Some((*at, at + bytes.len() as u64))),
        Action::FlipBit { file, at, .. } => {
            let page = at / PAGE_BYTES * PAGE_BYTES;
            (file, Some((page, page + PAGE_BYTES)))
        }
        Action::Remove { file, .. } | Action::Accept { file, .. } => (file, None),
    };
    let name = file.strip_prefix(store).unwrap_or(file).to_string_lossy();
    let name = name.replace('/', "_");
    let Some((start, end)) = range else {
        // What is noted anew may not have been there.
        if file.exists() {
            let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            write_file(&quarantine.join(name), &bytes)?;
        }
        return Ok(());
    };
    let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let end = end.min(opened.metadata()?.len());
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(start))?];
    opened
        .read_exact_at(&mut bytes, start)
        .with_context(|| format!("read {}", file.display()))?;
    write_file(&quarantine.join(format!("{name}.{start}-{end}")), &bytes)
}

fn carry_out(action: &Action) -> anyhow::Result<()> {
    match action {
        Action::Write {
            file, at, bytes, ..
        } => overwrite(file, *at, bytes),
        Action::FlipBit { file, at, bit, .. } => {
            let mut byte = [0];
            let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
            opened.read_exact_at(&mut byte, *at)?;
            overwrite(file, *at, &[byte[0] ^ (1 << bit)])
        }
        Action::Remove { file, .. } => {
            fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
            sync_dir(file.parent().unwrap_or(Path::new(".")))
        }
        Action::Accept { file, text, .. } => {
            write_file(file, text)?;
            sync_dir(file.parent().unwrap_or(Path::new(".")))
        }
    }
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let opened = File::options().write(true).open(file)?;
        opened.write_all_at(bytes, at)?;
        opened.sync_all()
    };
    write().with_context(|| format!("write {}", file.display()))
}

fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn sync_dir(dir: &Path) -> anyhow::Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("flush {}", dir.display()))
}
