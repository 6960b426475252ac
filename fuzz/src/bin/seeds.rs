//! Writes the seeds of every target to `corpus/`, where `cargo fuzz` looks for them.

use std::{fs, io};

fn main() -> io::Result<()> {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    for &(target, _) in catena_fuzz::TARGETS {
        let dir = format!("{corpus}/{target}");
        fs::create_dir_all(&dir)?;
        for (number, seed) in catena_fuzz::seeds::of(target).iter().enumerate() {
            fs::write(format!("{dir}/seed-{number:02}"), seed)?;
        }
    }
    Ok(())
}
