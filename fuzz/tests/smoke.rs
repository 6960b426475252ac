//! Every target on its seeds, on damaged seeds and on noise: what a build without a fuzzer can
//! try in seconds. The same number of rounds and the same start give the same bytes.

use catena_fuzz::{TARGETS, seeds};

/// Inputs made of each seed; `CATENA_FUZZ_ROUNDS` asks for another number.
const ROUNDS: u32 = 3_000;

/// Numbers that look random and are the same in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).expect("usize fits u64");
        usize::try_from(self.next() % limit).expect("below a usize")
    }
}

/// A few bytes changed, a range copied, moved, cut out or cut off.
fn damage(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let (at, other) = (numbers.below(bytes.len()), numbers.below(bytes.len()));
        let length = numbers.below(64).min(bytes.len() - at.max(other));
        match numbers.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.copy_within(at..at + length, other),
            2 => drop(bytes.drain(at..at + length)),
            3 => bytes.extend_from_within(at..at + length),
            4 => {
                let extreme = [0, 1, 0x7f, 0x80, 0xff][numbers.below(5)];
                bytes[at..at + length.min(8)].fill(extreme);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << numbers.below(8);
                }
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn no_bytes_make_a_parser_panic() {
    let rounds = std::env::var("CATENA_FUZZ_ROUNDS").map_or(ROUNDS, |text| {
        text.parse().expect("CATENA_FUZZ_ROUNDS is a number")
    });
    for &(name, target) in TARGETS {
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        let seeds = seeds::of(name);
        for seed in &seeds {
            target(seed);
            for _ in 0..rounds {
                target(&damage(seed, &mut numbers));
            }
        }
        for length in 0..300 {
            let noise: Vec<u8> = (0..length)
                .map(|_| numbers.next().to_le_bytes()[0])
                .collect();
            target(&noise);
        }
        println!("{name}: {} seeds", seeds.len());
    }
}

/// If no seed got past the first check, the test above would show nothing.
#[test]
fn seeds_are_accepted_where_they_belong() {
    use catena_core::block::parse_block;
    use catena_core::checkpoint::ShardCheckpoint;
    use catena_core::ids::SegmentSeq;
    use catena_core::ledger::LedgerSlot;
    use catena_core::metadata::Command;
    use catena_protocol::batch::{BatchReader, Decompressor};

    let block = &seeds::of("block")[0];
    parse_block(block, seeds::SALT, SegmentSeq(5), 0x20000).expect("the golden block");
    let scanned = &seeds::of("scan")[0][1..];
    parse_block(scanned, seeds::SALT, SegmentSeq(5), 4096).expect("a block to scan");
    let checkpoints = seeds::of("checkpoint");
    let newest = checkpoints.last().expect("a checkpoint");
    ShardCheckpoint::decode(newest).expect("a checkpoint");
    assert_eq!(
        &seeds::seal_envelopes(newest),
        newest,
        "sealing finds the checksums"
    );
    LedgerSlot::decode(&seeds::of("ledger")[0]).expect("a ledger page");
    Command::decode(&seeds::of("metadata")[2]).expect("a command");
    #[cfg(feature = "config")]
    {
        let config = String::from_utf8(seeds::of("config").remove(0)).expect("text");
        let settings = catena_broker::config::Settings::from_toml(&config, "seed".as_ref());
        settings.expect("a config");
    }
    for batch in seeds::of("batch").iter().rev().take(3) {
        let mut decompressor = Decompressor::default();
        let reader = BatchReader::open(batch, &mut decompressor).expect("a batch");
        assert!(reader.count() > 0);
    }
    let entry = &seeds::of("block")[1];
    assert_eq!(
        seeds::seal_entry(entry).as_ref(),
        Some(entry),
        "sealing finds the checksum"
    );
}
