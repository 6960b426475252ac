//! Flips bits in stores, in full: `flips [OFFLINE [ONLINE [SEED]]]` places.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use catena_tests::flips::{FlipConfig, run};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|arg| arg.parse()).collect();
    let Ok(numbers) = numbers else {
        eprintln!("usage: flips [OFFLINE [ONLINE [SEED]]]");
        return ExitCode::from(2);
    };
    let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
    let count = |number| usize::try_from(number).expect("64 bits");
    let config = FlipConfig {
        offline: count(number(0, 12_000)),
        online: count(number(1, 300)),
        seed: number(2, 1),
    };
    let began = Instant::now();
    let report = run(config).await;
    println!("{report}, {} s", began.elapsed().as_secs());
    ExitCode::from(u8::from(!report.wrong.is_empty()))
}
