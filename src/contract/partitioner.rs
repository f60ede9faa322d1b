//! The partitioners that producers of the input topics use.
//!
//! Both inputs are keyed by `user_id`; that a record lies where its key belongs is what makes a
//! view and its response meet in one partition. Keys are never empty here (an empty `user_id` is
//! rejected before), so the random choice that both partitioners make for a null key never arises.

use crate::settings::Partitioner;

/// The partition of a key, under the partitioner of the settings (`input.partitioner`).
pub fn partition(partitioner: Partitioner, key: &[u8], partitions: i32) -> i32 {
    match partitioner {
        Partitioner::Murmur2Random => murmur2_random(key, partitions),
        Partitioner::ConsistentRandom => consistent_random(key, partitions),
    }
}

/// Java's default partitioner, and librdkafka's `murmur2_random`:
/// `toPositive(murmur2(key)) % partitions`. `partitions` is at least 1.
pub fn murmur2_random(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions
}

/// librdkafka's default partitioner, `consistent_random`: `crc32(key) % partitions`.
/// `partitions` is at least 1.
pub fn consistent_random(key: &[u8], partitions: i32) -> i32 {
    (crc32fast::hash(key) % partitions.cast_unsigned()).cast_signed()
}

/// The known partitioner under which every one of these keys lies where it was found.
///
/// `found` pairs a record's key with its partition. `None` without keys, or when none fits.
pub fn suggest<'a>(
    found: impl IntoIterator<Item = (&'a [u8], i32)> + Clone,
    partitions: i32,
) -> Option<Partitioner> {
    found.clone().into_iter().next()?;
    [Partitioner::Murmur2Random, Partitioner::ConsistentRandom].into_iter().find(|&candidate| {
        found.clone().into_iter().all(|(key, place)| partition(candidate, key, partitions) == place)
    })
}

/// MurmurHash2 as `org.apache.kafka.common.utils.Utils.murmur2` computes it.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java's array lengths are 32 bits wide.
    let mut hash = SEED ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Apache Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_gives_the_values_of_kafkas_own_test() {
        let golden: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, expected) in golden {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    /// The check value of CRC-32/ISO-HDLC, the polynomial that librdkafka uses.
    #[test]
    fn consistent_random_is_the_crc_32_of_the_key() {
        assert_eq!(consistent_random(b"123456789", i32::MAX), (0xcbf4_3926_u32 % 0x7fff_ffff).cast_signed());
        assert_eq!(consistent_random(b"123456789", 4), 2);
    }

    #[test]
    fn a_negative_murmur2_still_gives_a_partition() {
        assert_eq!(murmur2_random(b"foobar", 10), (-790_332_482 & 0x7fff_ffff) % 10);
    }

    #[test]
    fn the_partitioner_that_fits_the_keys_is_suggested() {
        let keys: Vec<String> = (0..50).map(|n| format!("user-{n}")).collect();
        let lie_by = |partitioner| {
            keys.iter()
                .map(|key| (key.as_bytes(), partition(partitioner, key.as_bytes(), 8)))
                .collect::<Vec<_>>()
        };
        for partitioner in [Partitioner::Murmur2Random, Partitioner::ConsistentRandom] {
            assert_eq!(suggest(lie_by(partitioner), 8), Some(partitioner));
        }
        let anywhere: Vec<_> = keys.iter().map(|key| (key.as_bytes(), 3)).collect();
        assert_eq!(suggest(anywhere, 8), None);
        assert_eq!(suggest([], 8), None);
    }
}
