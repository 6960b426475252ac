//! `store.toml`: who a data directory is. Written once, when the directory is formatted.
//!
//! The file appears whole or not at all: it is written and flushed under a temporary name, then
//! renamed, then the directory is flushed. Its last line is a checksum of the others: with another
//! identity every checkpoint would be taken for another store's and passed over.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;

use catena_core::sealed_text::{self, Seal};
use catena_protocol::ids::NodeId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{STORE_FORMAT, StoreError, io_error};
use crate::limits::TEXT_FILE_BYTES_MAX;
use crate::runtime::file::sync_directory;

pub(super) const IDENTITY_FILE: &str = "store.toml";
pub(super) const IDENTITY_TEMPORARY_FILE: &str = "store.toml.tmp";

/// The oldest version that reads what this version formats.
const NEEDS_VERSION: &str = "0.1.0";

const COMMENT: &str = "# Identity of this Catena data directory. Do not edit, copy or delete.\n";

#[derive(Debug)]
pub(super) struct Identity {
    pub(super) store_uuid: [u8; 16],
    pub(super) cluster_id: [u8; 16],
    pub(super) node: NodeId,
}

/// The keys that every format keeps.
#[derive(Deserialize)]
struct FormatKeys {
    format: i64,
    needs_version: Option<String>,
}

/// The keys of format 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityKeys {
    format: u32,
    needs_version: String,
    store_uuid: String,
    cluster_id: String,
    node: u32,
    created: String,
    /// Looked at before anything is parsed; stores that an earlier build formatted have none.
    #[serde(rename = "checksum", skip_serializing)]
    _checksum: Option<String>,
}

impl Identity {
    /// Makes a new identity in `dir`; the caller holds the lock.
    pub(super) fn create(dir: &Path) -> Result<Self, StoreError> {
        let keys = IdentityKeys {
            format: STORE_FORMAT,
            needs_version: NEEDS_VERSION.into(),
            store_uuid: Uuid::new_v4().to_string(),
            cluster_id: Uuid::new_v4().to_string(),
            node: 1,
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            _checksum: None,
        };
        let body = toml::to_string(&keys).expect("plain values can be written as TOML");
        write_whole(dir, &sealed_text::seal(&(COMMENT.to_owned() + &body)))?;
        // What was written is what later starts will read.
        Self::read(dir)
    }

    pub(super) fn read(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(IDENTITY_FILE);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(TEXT_FILE_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(io_error("read", &path))?;
        let damaged = |reason: String| StoreError::Damaged {
            path: path.clone(),
            reason,
        };
        if sealed_text::check(&bytes) == Seal::Broken {
            return Err(damaged("its checksum does not fit".into()));
        }
        let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        // First what all formats share: a newer one has keys that this version does not know.
        let FormatKeys {
            format,
            needs_version,
        } = toml::from_str(&text).map_err(|error| damaged(error.message().into()))?;
        if format != i64::from(STORE_FORMAT) {
            let needs = needs_version.unwrap_or_else(|| "(unknown version)".into());
            return Err(StoreError::UnknownFormat {
                dir: dir.into(),
                found: format,
                needs,
            });
        }
        let keys: IdentityKeys =
            toml::from_str(&text).map_err(|error| damaged(error.message().into()))?;
        let parse = |name: &str, text: &str| {
            let parsed = Uuid::parse_str(text).map(Uuid::into_bytes);
            parsed.map_err(|error| damaged(format!("{name} is not a UUID: {error}")))
        };
        Ok(Self {
            store_uuid: parse("store_uuid", &keys.store_uuid)?,
            cluster_id: parse("cluster_id", &keys.cluster_id)?,
            node: NodeId::new(keys.node),
        })
    }
}

fn write_whole(dir: &Path, text: &str) -> Result<(), StoreError> {
    let temporary = dir.join(IDENTITY_TEMPORARY_FILE);
    let path = dir.join(IDENTITY_FILE);
    File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(io_error("create", &path))?;
    sync_directory(dir).map_err(io_error("format", dir))
}
