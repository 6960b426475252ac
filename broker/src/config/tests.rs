//! Where values come from, which are refused, and in what words.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, Parser};

use super::*;
use crate::limits::{
    CACHE_BYTES_DEFAULT_MAX, CACHE_BYTES_DEFAULT_MIN, SEGMENT_BYTES_MAX, SHARDS_MAX,
};

fn host() -> Host {
    Host {
        cpus: vec![0, 1, 2, 3],
        cpu_quota: Some(3),
        memory_bytes: 16 << 30,
    }
}

fn args(flags: &[&str]) -> Args {
    let line = ["catena-broker"].iter().chain(flags);
    Args::try_parse_from(line).expect("good flags")
}

fn load(flags: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    Config::load(args(flags), variables.collect::<Vec<_>>(), &host())
}

fn loaded(flags: &[&str], variables: &[(&str, &str)]) -> Config {
    load(flags, variables).expect("a good configuration")
}

fn refusal(flags: &[&str], variables: &[(&str, &str)]) -> String {
    load(flags, variables)
        .expect_err("the configuration has to be refused")
        .to_string()
}

/// A config file that lives as long as the directory.
fn config_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("catena.toml");
    fs::write(&path, text).expect("the file can be written");
    let path = path.to_str().expect("temporary paths are UTF-8").to_owned();
    (dir, path)
}

fn file_refusal(text: &str) -> String {
    let (dir, path) = config_file(text);
    let message = refusal(&["--config", &path], &[]);
    message.replace(
        dir.path().to_str().expect("temporary paths are UTF-8"),
        "DIR",
    )
}

#[test]
fn defaults_come_from_the_host() {
    let config = loaded(&[], &[]);
    assert_eq!(config.data_dir, Path::new("./catena-data"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:9640");
    assert_eq!(
        config.admin.map(|addr| addr.to_string()).as_deref(),
        Some("127.0.0.1:9641")
    );
    assert_eq!(config.cores, [0, 1, 2]);
    assert_eq!(config.segment_bytes, SEGMENT_BYTES_MAX);
    assert_eq!(config.cache_bytes, 2 << 30);
    assert!(config.space_bytes > 0);
    assert_eq!(
        (config.log_format, config.log_level.as_str()),
        (LogFormat::Text, "info")
    );
}

#[test]
fn the_default_cache_is_bounded_both_ways() {
    let cache_of = |memory_bytes| {
        let host = Host {
            memory_bytes,
            ..host()
        };
        Config::load(args(&[]), [], &host)
            .expect("a good configuration")
            .cache_bytes
    };
    assert_eq!(cache_of(256 << 20), CACHE_BYTES_DEFAULT_MIN);
    assert_eq!(cache_of(1 << 40), CACHE_BYTES_DEFAULT_MAX);
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file() {
    let (_dir, path) = config_file(
        "listen = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\ncache-bytes = \"64MiB\"\n\
         space-bytes = 1073741824\n",
    );
    let variables = [
        ("CATENA_CONFIG", path.as_str()),
        ("CATENA_LISTEN", "127.0.0.1:11"),
        ("CATENA_ADMIN", "off"),
        ("CATENA_BROKER", "somewhere:9640"),
        ("PATH", "/bin"),
    ];
    let config = loaded(&["--listen", "127.0.0.1:111"], &variables);
    assert_eq!(config.listen.port(), 111, "flag");
    assert_eq!(config.admin, None, "environment");
    assert_eq!(config.cache_bytes, 64 << 20, "file");
    assert_eq!(config.space_bytes, 1 << 30, "file, as a number");
    assert_eq!(config.log_level, "info", "default");
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_file_and_the_nearest_key() {
    assert_eq!(
        file_refusal("lisen = \"127.0.0.1:9640\"\n"),
        "config file DIR/catena.toml: unknown key `lisen`; did you mean `listen`?"
    );
    assert_eq!(
        file_refusal("data_dir = \"x\"\n"),
        "config file DIR/catena.toml: unknown key `data_dir`; did you mean `data-dir`?"
    );
    assert_eq!(
        file_refusal("[replication]\nfactor = 3\n"),
        "config file DIR/catena.toml: unknown key `replication`"
    );
}

#[test]
fn an_unknown_variable_is_an_error() {
    assert_eq!(
        refusal(&[], &[("CATENA_DATADIR", "x")]),
        "environment: unknown key `CATENA_DATADIR`; did you mean `CATENA_DATA_DIR`?"
    );
    let message = refusal(&[], &[("CATENA_listen", "127.0.0.1:1")]);
    assert_eq!(
        message,
        "environment: unknown key `CATENA_listen`; did you mean `CATENA_LISTEN`?"
    );
    assert_eq!(
        refusal(&[], &[("CATENA_XYZZY", "")]),
        "environment: unknown key `CATENA_XYZZY`"
    );
}

#[test]
fn a_bad_value_names_its_place_and_key() {
    assert_eq!(
        file_refusal("cache-bytes = \"64Mi\"\n"),
        "config file DIR/catena.toml: `cache-bytes`: \"64Mi\" is not a size; write a whole number \
         of bytes or one like 16MiB, 4GiB"
    );
    assert_eq!(
        file_refusal("cores = 3\n"),
        "config file DIR/catena.toml: `cores`: 3 is not a list of CPUs; write cores = \"3\" for \
         CPU 3, \"0-3\" for the first four"
    );
    let message = file_refusal("cores = [0, 1]\n");
    assert!(
        message.contains("expected a text such as \"0,2-3\" or \"all\""),
        "{message}"
    );
    assert_eq!(
        file_refusal("listen = \"localhost:9640\"\n"),
        "config file DIR/catena.toml: `listen`: \"localhost:9640\" is not an address; write \
         IP:PORT, e.g. 0.0.0.0:9640"
    );
    assert_eq!(
        refusal(&[], &[("CATENA_CORES", "2-1")]),
        "environment: `CATENA_CORES`: \"2-1\": the range 2-1 runs backwards"
    );
    let message = file_refusal("listen = \n");
    assert!(
        message.starts_with("config file DIR/catena.toml: TOML parse error"),
        "{message}"
    );
}

#[test]
fn a_missing_config_file_is_an_error() {
    let message = refusal(&["--config", "/nonexistent/catena.toml"], &[]);
    assert!(
        message.starts_with("cannot read the config file /nonexistent/catena.toml:"),
        "{message}"
    );
}

#[test]
fn values_that_cannot_work_here_are_refused() {
    let table = [
        (
            &["--cores", "1,9"],
            "--cores names CPU 9, but this process may only run on 0-3",
        ),
        (
            &["--listen", "0.0.0.0:9640"],
            "listen address 0.0.0.0:9640 means every address of this host, which clients cannot \
             connect to; say which one they should use with --advertise HOST:PORT",
        ),
        (
            &["--segment-bytes", "5MiB"],
            "--segment-bytes 5MiB is not a power of two from 4MiB to 256MiB",
        ),
        (
            &["--cache-bytes", "1MiB"],
            "--cache-bytes 1MiB is too small: 3 shards need 24MiB",
        ),
        (
            &["--space-bytes", "100MiB"],
            "--space-bytes 100MiB is too small: 3 shards need 192MiB",
        ),
        (
            &["--cache-bytes", "17GiB"],
            "--cache-bytes 17GiB is more than the memory of this host or container, 17179869184 \
             bytes",
        ),
        (&["--log-level", ""], "--log-level is empty"),
        (&["--log-level", ","], "--log-level is empty"),
        (
            &["--compaction-lag", "48h"],
            "--compaction-lag 2days is longer than --compaction-lag-max 1day; lower the first or \
             raise the second",
        ),
    ];
    for (flags, message) in table {
        assert_eq!(refusal(flags, &[]), message);
    }
}

#[test]
fn a_log_level_that_is_none_is_refused_and_not_taken_for_a_target() {
    for (level, bad) in [
        ("warning", "warning"),
        ("info,debgu", "debgu"),
        ("catena_broker", "catena_broker"),
        ("info,catena_broker=loud", "catena_broker=loud"),
        ("info,=,", "="),
    ] {
        let words = "write error, warn, info, debug or trace, or TARGET=LEVEL";
        assert_eq!(
            refusal(&["--log-level", level], &[]),
            format!("--log-level {bad:?}: {words}")
        );
    }
    for level in ["error", "WARN", "off", "info,catena_broker::journal=debug"] {
        assert_eq!(loaded(&["--log-level", level], &[]).log_level, level);
    }
    let spaced = loaded(&["--log-level", " info, catena_broker=debug"], &[]);
    assert_eq!(spaced.log_level, "info,catena_broker=debug");
}

#[test]
fn the_two_ports_have_to_differ() {
    for (listen, admin) in [
        ("127.0.0.1:7", "127.0.0.1:7"),
        ("127.0.0.1:7", "0.0.0.0:7"),
        ("[::]:7", "127.0.0.1:7"),
    ] {
        let flags = ["--listen", listen, "--admin", admin, "--advertise", "h:7"];
        assert_eq!(
            refusal(&flags, &[]),
            format!(
                "--listen {listen} and --admin {admin} are the same port; choose another --admin \
                 (or off)"
            )
        );
    }
    let by_default = refusal(&["--listen", "127.0.0.1:9641"], &[]);
    assert!(by_default.contains("the same port"), "{by_default}");
    for (listen, admin) in [
        ("127.0.0.1:7", "127.0.0.2:7"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:9641", "off"),
    ] {
        loaded(&["--listen", listen, "--admin", admin], &[]);
    }
}

#[test]
fn all_cores_ignores_the_quota_and_too_many_are_refused() {
    assert_eq!(loaded(&["--cores", "all"], &[]).cores, [0, 1, 2, 3]);
    let host = Host {
        cpus: (0..=SHARDS_MAX).collect(),
        cpu_quota: None,
        memory_bytes: 1 << 40,
    };
    let flags = ["--space-bytes", "1TiB"];
    let config = Config::load(args(&flags), [], &host).expect("a good configuration");
    assert_eq!(config.cores.len(), SHARDS_MAX);
    let all = args(&["--cores", "all", "--space-bytes", "1TiB"]);
    let error = Config::load(all, [], &host).expect_err("too many cores");
    assert_eq!(
        error.to_string(),
        "--cores names 65 CPUs; a node has at most 64 shards"
    );
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let flags = [
        "--listen",
        "0.0.0.0:9640",
        "--advertise",
        "broker-1.example:9640",
        "--cores",
        "0,2-3",
        "--segment-bytes",
        "64MiB",
        "--space-bytes",
        "10GiB",
        "--log-format",
        "json",
        "--log-level",
        "info,catena_broker=debug",
    ];
    let config = loaded(&flags, &[]);
    let text = config.to_toml();
    assert!(text.contains("segment-bytes = \"64MiB\"\n"), "{text}");
    assert!(text.contains("cores = \"0,2-3\"\n"), "{text}");
    let (_dir, path) = config_file(&text);
    assert_eq!(loaded(&["--config", &path], &[]), config);

    let off = loaded(&["--admin", "off", "--space-bytes", "1GiB"], &[]);
    let (_dir, path) = config_file(&off.to_toml());
    assert_eq!(loaded(&["--config", &path], &[]), off);
}

#[test]
fn flags_and_keys_are_the_same_list() {
    let command = Args::command();
    let flags: Vec<_> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .collect();
    for key in Settings::KEYS {
        assert!(flags.contains(&key), "no flag for {key}");
    }
    let others = flags.iter().filter(|flag| !Settings::KEYS.contains(flag));
    assert_eq!(
        others.copied().collect::<Vec<_>>(),
        ["config", "check-config"]
    );
    let advertised = loaded(&["--advertise", "h:1", "--space-bytes", "1GiB"], &[]);
    let table: toml::Table = toml::from_str(&advertised.to_toml()).expect("good TOML");
    let mut written: Vec<_> = table.keys().map(String::as_str).collect();
    let mut known = Settings::KEYS;
    written.sort_unstable();
    known.sort_unstable();
    assert_eq!(written, known);
}

#[test]
fn every_flag_is_in_the_operations_page() {
    let page = include_str!("../../../docs/OPERATIONS.md");
    for key in Settings::KEYS {
        assert!(
            page.contains(&format!("`--{key}`")),
            "--{key} is not documented"
        );
    }
}
