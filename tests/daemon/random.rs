//! Random numbers that can be repeated.

/// A Xorshift generator.
pub struct Random {
    pub seed: u64,
    state: u64,
}

impl Random {
    /// A generator whose seed is the time, or the number in the environment variable `CLAVIGER_SEED`.
    pub fn new() -> Self {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let named = std::env::var("CLAVIGER_SEED").ok().map(|seed| seed.parse().expect("a number"));
        Self::with_seed(named.unwrap_or(u64::from(time.subsec_nanos())))
    }

    pub fn with_seed(seed: u64) -> Self {
        Self { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// A generator with a seed that follows from this one's.
    pub fn another(&mut self) -> Self {
        Self::with_seed(self.next())
    }

    /// A number from 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The low bits are the weakest.
        (self.next() >> 16) % limit
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}
