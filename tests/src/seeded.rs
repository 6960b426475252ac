//! Numbers and texts that look random and are the same in every run.

/// A generator of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The generator of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("usize fits u64");
        usize::try_from(self.next() % end).expect("smaller than a usize")
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// A file of at least `bytes` bytes as a service would log it: lines of many lengths, some empty,
/// some twice, some not UTF-8, a few very long. Ends with a newline.
pub fn log_file(seed: u64, bytes: usize) -> Vec<u8> {
    const LEVELS: [&str; 4] = ["INFO", "WARN", "ERROR", "DEBUG"];
    let mut random = Seeded::new(seed);
    let mut file = Vec::with_capacity(bytes + (1 << 20));
    let mut line: u64 = 0;
    while file.len() < bytes {
        line += 1;
        match random.below(1000) {
            0..=9 => {}
            10..=19 => file.extend_from_slice(b"a line that comes again and again"),
            20 => file.extend(random.bytes(500).iter().filter(|byte| **byte != b'\n')),
            21 => file.extend(vec![b'x'; 200 << 10]),
            _ => {
                let level = LEVELS[random.below(LEVELS.len())];
                let begin = format!("2026-01-01T00:00:00Z {level} line={line} request=");
                file.extend_from_slice(begin.as_bytes());
                for _ in 0..random.below(12) {
                    file.extend_from_slice(format!("{:016x} ", random.next()).as_bytes());
                }
            }
        }
        file.push(b'\n');
    }
    file
}
