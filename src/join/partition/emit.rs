//! What the join emits. In a replay that is nothing: what two records below the committed offsets
//! gave was emitted before, in whatever order they were read.

use bytes::Bytes;
use prost::Message;

use super::PartitionJoin;
use crate::contract::v1::{PairScope, Source, envelope};
use crate::contract::validate::Response;
use crate::join::groups::Group;
use crate::join::output::Origin;
use crate::join::pairing::Labelled;
use crate::join::{Effects, Output, Side};

impl PartitionJoin {
    pub(super) fn emit(&self, effects: &mut Effects, output: impl FnOnce() -> Output) {
        if !self.is_replaying {
            effects.outputs.push(output());
        }
    }

    pub(super) fn origin(&self, side: Side, reason: &'static str, offset: i64) -> Origin<'_> {
        let topic = match side {
            Side::Views => &self.config.topics.behavior,
            Side::Responses => &self.config.topics.responses,
        };
        Origin { side, reason, topic, partition: self.partition, offset }
    }

    /// Emits a labelled view and its pairs. In a replay they were emitted before.
    pub(super) fn label(
        &mut self,
        view: Bytes,
        view_offset: i64,
        response: &Response,
        response_offset: i64,
        effects: &mut Effects,
    ) {
        if self.is_replaying {
            return;
        }
        let source =
            |topic: &str, offset| Some(Source { topic: topic.to_owned(), partition: self.partition, offset });
        let message = envelope::LabelledView {
            view,
            response: response.payload.clone(),
            view_source: source(&self.config.topics.behavior, view_offset),
            response_source: source(&self.config.topics.responses, response_offset),
        };
        let encoded = Bytes::from(message.encode_to_vec());
        let user_id = response.user_id.share(&response.payload);
        effects.outputs.push(Output::labelled_view(user_id.clone(), encoded.clone(), response.event_time_ms));
        self.products.labelled_views += 1;
        let labelled = Labelled::decode(encoded).expect("a labelled view of two valid records can be read");
        for pair in self.pairing.pairs_of(&labelled) {
            let is_same_user = pair.scope() == PairScope::SameUser;
            self.products.user_pairs += u64::from(is_same_user);
            self.products.scenario_pairs += u64::from(!is_same_user);
            effects.outputs.push(Output::preference_pair(user_id.clone(), &pair));
        }
    }

    pub(super) fn emit_group(&mut self, group: Group, effects: &mut Effects) {
        if group.len() < 2 {
            self.products.single_view_groups += 1;
            return;
        }
        self.products.groups += 1;
        self.products.grouped_views += group.len() as u64;
        self.emit(effects, || Output::behavior_group(group, &self.config.topics.behavior, self.partition));
    }
}
