//! What has been said already of records that retention removed.

use std::collections::BTreeMap;

use crate::contract::Side;
use crate::join::RetentionLoss;

/// The end of the last loss that was told of each input partition.
///
/// The states of an assignment are built again after every abort, from the same committed offsets, and
/// find the same loss each time.
#[derive(Debug, Default)]
pub(super) struct ToldLosses(BTreeMap<(i32, Side), i64>);

impl ToldLosses {
    /// What of a loss is news: from which offset on, up to without its end; `None` when nothing is.
    pub(super) fn news(&mut self, partition: i32, loss: &RetentionLoss) -> Option<(i64, i64)> {
        let told = self.0.entry((partition, loss.side)).or_insert(loss.from_offset);
        let from_offset = loss.from_offset.max(*told);
        *told = loss.to_offset.max(*told);
        (from_offset < loss.to_offset).then_some((from_offset, loss.to_offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(side: Side, from_offset: i64, to_offset: i64) -> RetentionLoss {
        RetentionLoss { side, from_offset, to_offset, from_time_ms: None, to_time_ms: None }
    }

    #[test]
    fn what_is_found_again_after_an_abort_is_told_once() {
        let mut told = ToldLosses::default();
        assert_eq!(told.news(0, &loss(Side::Views, 10, 40)), Some((10, 40)));
        assert_eq!(told.news(0, &loss(Side::Views, 10, 40)), None);
        assert_eq!(told.news(0, &loss(Side::Responses, 10, 40)), Some((10, 40)), "another input");
        assert_eq!(told.news(1, &loss(Side::Views, 10, 40)), Some((10, 40)), "another partition");
    }

    #[test]
    fn of_a_loss_that_has_grown_only_the_rest_is_news() {
        let mut told = ToldLosses::default();
        assert_eq!(told.news(0, &loss(Side::Views, 10, 40)), Some((10, 40)));
        assert_eq!(told.news(0, &loss(Side::Views, 10, 55)), Some((40, 55)));
        assert_eq!(told.news(0, &loss(Side::Views, 60, 70)), Some((60, 70)), "a later one");
        assert_eq!(told.news(0, &loss(Side::Views, 10, 70)), None);
    }
}
