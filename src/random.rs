//! Counter-based random numbers (Philox 4x32-10): every draw is a pure function of the seed, the
//! stream and its position, so a run can be resumed anywhere and gives the same numbers on every
//! device and with any number of threads.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

/// What the numbers are for; each purpose draws from a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights.
    Weights = 1,
    /// Permutations of the activation buffer.
    Buffer = 2,
    /// Order of stored activations.
    Shuffle = 3,
    /// Sampling of next tokens.
    Sampling = 4,
    /// Order of activations that are written to disk.
    Store = 5,
    /// Divisions of prompts into groups, for a permutation test.
    Permutations = 6,
    /// Examples of where a feature fires.
    Examples = 7,
    /// Inputs that dead latents start again from.
    Resampling = 8,
}

/// The ten-round Philox 4x32 bijection: 128 random bits for a 128-bit counter and a 64-bit key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let (p0, p1) = (M0 * u64::from(c0), M1 * u64::from(c2));
        (c0, c1, c2, c3) = (((p1 >> 32) as u32) ^ c1 ^ k0, p1 as u32, ((p0 >> 32) as u32) ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

fn block(key: [u32; 2], stream: [u32; 2], number: u64) -> [u32; 4] {
    philox([number as u32, (number >> 32) as u32, stream[0], stream[1]], key)
}

/// Uniform in [0, 1), by the upper 24 of the bits.
fn uniform(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A sequence of random numbers: `(seed, stream, substream)` name it, `position` is where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    key: [u32; 2],
    stream: [u32; 2],
    position: u64,
}

impl Random {
    /// The sequence for one purpose; `substream` tells apart, say, successive permutations.
    pub fn new(seed: u64, stream: Stream, substream: u32) -> Self {
        Random { key: [seed as u32, (seed >> 32) as u32], stream: [stream as u32, substream], position: 0 }
    }

    /// The same from a position on.
    pub fn at(seed: u64, stream: Stream, substream: u32, position: u64) -> Self {
        Random { position, ..Random::new(seed, stream, substream) }
    }

    /// Block `number` of the sequence `(seed, stream, substream)`: its random bits from position
    /// `4 number` on.
    pub fn block(seed: u64, stream: Stream, substream: u32, number: u64) -> [u32; 4] {
        let sequence = Random::new(seed, stream, substream);
        block(sequence.key, sequence.stream, number)
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let word = block(self.key, self.stream, self.position / 4)[(self.position % 4) as usize];
        self.position += 1;
        word
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn uniform(&mut self) -> f32 {
        uniform(self.next_u32())
    }

    /// As many as there is room for of the numbers that [`uniform`](Self::uniform) gives one after the other.
    pub fn fill_uniform(&mut self, to: &mut [f32]) {
        let mut words = block(self.key, self.stream, self.position / 4);
        for x in to {
            let place = (self.position % 4) as usize;
            if place == 0 {
                words = block(self.key, self.stream, self.position / 4);
            }
            *x = uniform(words[place]);
            self.position += 1;
        }
    }

    /// Uniform in 0..n without bias (Lemire's method with rejection).
    pub fn below(&mut self, n: u32) -> u32 {
        debug_assert!(n > 0);
        let reject_under = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= reject_under {
                return (product >> 32) as u32;
            }
        }
    }

    /// A random permutation of 0..n (Fisher-Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last as u32 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the reference implementation (Random123, kat_vectors).
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn many_numbers_are_those_of_one_after_the_other_from_any_position() {
        for position in [0, 3, 6] {
            let mut filled = [0.0; 11];
            let mut random = Random::at(7, Stream::Weights, 2, position);
            random.fill_uniform(&mut filled);
            let mut one_by_one = Random::new(7, Stream::Weights, 2);
            (0..position).for_each(|_| _ = one_by_one.uniform());
            assert_eq!(filled, std::array::from_fn(|_| one_by_one.uniform()));
            assert_eq!(random, one_by_one);
        }
    }

    #[test]
    fn permutations_hold_every_index_once_and_differ_by_substream() {
        let mut first = Random::new(7, Stream::Buffer, 0).permutation(1000);
        let second = Random::new(7, Stream::Buffer, 1).permutation(1000);
        assert_eq!(first, Random::new(7, Stream::Buffer, 0).permutation(1000));
        assert_ne!(first, second);
        first.sort_unstable();
        assert_eq!(first, (0..1000).collect::<Vec<u32>>());
    }
}
