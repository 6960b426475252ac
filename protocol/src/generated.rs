//! The code that `flatc` makes out of `schema/`. Checked in; the compiler is no part of a build.
//!
//! To make it anew, or to check that it is what the schema gives, see `schema/codegen`. The file
//! `generated/STAMP` holds checksums of schema and code, which a test compares.

#[allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused,
    unreachable_pub,
    mismatched_lifetime_syntaxes,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::host_endian_bytes
)]
#[rustfmt::skip]
mod catena_generated;

pub(crate) use catena_generated::catena::wire;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    #[test]
    fn generated_code_belongs_to_the_schema() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<PathBuf> = fs::read_dir(root.join("schema"))
            .expect("the schema is in the source tree")
            .map(|entry| entry.expect("the directory can be read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "fbs"))
            .collect();
        files.sort();
        let mut schema = crc32fast::Hasher::new();
        for file in files {
            schema.update(&fs::read(file).expect("a schema file can be read"));
        }
        let code = include_bytes!("generated/catena_generated.rs");
        let (schema, code) = (schema.finalize(), crc32fast::hash(code));
        let stamp = format!("schema {schema:08x}\ncode {code:08x}\n");
        assert_eq!(
            stamp,
            include_str!("generated/STAMP"),
            "run: cargo run --manifest-path protocol/schema/codegen/Cargo.toml"
        );
    }
}
