//! Makes `protocol/src/generated` out of `protocol/schema`, or checks that the two agree.
//!
//! ```text
//! cargo run --manifest-path protocol/schema/codegen/Cargo.toml            # writes
//! cargo run --manifest-path protocol/schema/codegen/Cargo.toml -- --check # compares
//! ```
//!
//! Needs cmake and a C++ compiler (it builds flatc). `STAMP` beside the generated code holds the
//! CRC-32 of all schema files and of the code; a test of catena-protocol compares it in every
//! run, without flatc.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

const CODE: &str = "catena_generated.rs";
const STAMP: &str = "STAMP";

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let check = match arguments.next().as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument {other:?}; there is only --check"),
    };
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let schema = protocol.join("schema");
    let generated = protocol.join("src/generated");

    let fresh = std::env::temp_dir().join(format!("catena-codegen-{}", std::process::id()));
    fs::create_dir_all(&fresh)?;
    let made = generate(&schema, &fresh);
    let code = made.and_then(|()| Ok(fs::read(fresh.join(CODE))?));
    fs::remove_dir_all(&fresh)?;
    let code = code?;
    let stamp = stamp(&schema, &code)?;

    if check {
        let same = fs::read(generated.join(CODE))? == code
            && fs::read_to_string(generated.join(STAMP))? == stamp;
        println!(
            "generated code and schema {}",
            if same { "agree" } else { "DIFFER" }
        );
        return Ok(if same {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    fs::write(generated.join(CODE), code)?;
    fs::write(generated.join(STAMP), stamp)?;
    Ok(ExitCode::SUCCESS)
}

fn generate(schema: &Path, out: &Path) -> Result<()> {
    let status = Command::new(flatc_fork::flatc())
        .args(["--rust", "--gen-all", "-o"])
        .arg(out)
        .arg(schema.join("catena.fbs"))
        .status()
        .context("flatc does not start")?;
    ensure!(status.success(), "flatc failed: {status}");
    Ok(())
}

/// The text of the stamp; the test `generated_code_belongs_to_the_schema` computes the same.
fn stamp(schema: &Path, code: &[u8]) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(schema)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "fbs"));
    files.sort();
    let mut crc = crc32fast::Hasher::new();
    for file in files {
        crc.update(&fs::read(file)?);
    }
    Ok(format!(
        "schema {:08x}\ncode {:08x}\n",
        crc.finalize(),
        crc32fast::hash(code)
    ))
}
