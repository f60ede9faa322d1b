//! Whether a thread still makes progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Moved by a thread with each turn of its loop, whatever the turn did; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// Whether there has been any progress at all.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Says that there is progress.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The most that counts between two looks. Who looks comes round many times a second: after a longer
/// pause the whole process has stood still, and nobody in it could have made progress.
const MOST_BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Looks after a [`Beat`], from another thread, several times a second.
#[derive(Debug)]
pub struct BeatWatch {
    beat: Beat,
    limit: Duration,
    seen: u64,
    looked_at: Instant,
    silent: Duration,
}

impl BeatWatch {
    /// `limit`: for so long a beat may be silent.
    pub fn new(beat: Beat, limit: Duration, now: Instant) -> Self {
        Self { beat, limit, seen: 0, looked_at: now, silent: Duration::ZERO }
    }

    /// Whether the beat has been silent for longer than it may.
    pub fn is_silent(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.looked_at);
        self.looked_at = now;
        let beats = self.beat.0.load(Ordering::Relaxed);
        if beats == self.seen {
            self.silent += since.min(MOST_BETWEEN_LOOKS);
        } else {
            self.seen = beats;
            self.silent = Duration::ZERO;
        }
        self.silent > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(100);
    const LIMIT: Duration = Duration::from_secs(3);

    /// A watch that looks every [`SLICE`].
    struct Looks {
        watch: BeatWatch,
        now: Instant,
    }

    impl Looks {
        fn new(beat: &Beat) -> Self {
            let now = Instant::now();
            Self { watch: BeatWatch::new(beat.clone(), LIMIT, now), now }
        }

        /// Whether any look within `span` finds the beat silent.
        fn find_silence(&mut self, span: Duration) -> bool {
            let end = self.now + span;
            let mut found = false;
            while self.now < end {
                self.now += SLICE;
                found |= self.watch.is_silent(self.now);
            }
            found
        }
    }

    #[test]
    fn a_beat_is_silent_after_its_limit_and_not_before() {
        let beat = Beat::default();
        let mut looks = Looks::new(&beat);
        assert!(!looks.find_silence(LIMIT));
        assert!(looks.find_silence(SLICE));
        beat.beat();
        assert!(!looks.find_silence(LIMIT), "it beats again");
    }

    #[test]
    fn a_beat_within_the_limit_is_never_silent() {
        let beat = Beat::default();
        let mut looks = Looks::new(&beat);
        for _ in 0..10 {
            assert!(!looks.find_silence(LIMIT - SLICE));
            beat.beat();
        }
    }

    #[test]
    fn a_pause_of_the_whole_process_is_no_silence() {
        let beat = Beat::default();
        let mut looks = Looks::new(&beat);
        assert!(!looks.find_silence(LIMIT / 2));
        looks.now += 100 * LIMIT;
        assert!(!looks.watch.is_silent(looks.now), "the one that looks stood still too");
        assert!(looks.find_silence(LIMIT / 2), "what came before the pause and after it counts");
    }
}
