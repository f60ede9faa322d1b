//! Pages read by offset.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::contract::v1;
use crate::kafka::reader::{LogReader, ReadError};
use crate::model::HostTensor;
use crate::settings::Settings;
use crate::supervise::Beat;

use super::error::PublishError;
use super::paged::{PagedTensor, Verified};
use super::pages::{self, PageError, Sha};

/// Reading on over this many records costs less than beginning anew at an offset.
const READ_OVER: i64 = 64;

/// How long the page topic may give no record at all.
const SILENCE: Duration = Duration::from_secs(15);

/// After this long without a record the broker is asked whether the log goes on at all. Not sooner:
/// a transaction becomes visible in its topics one after the other.
const ASK_AFTER: Duration = Duration::from_secs(2);

/// A page that is read lies in the log. A fetch that waits for more would be in the way of the next
/// one, on the connection that answers one after the other.
const TUNING: [(&str, &str); 1] = [("fetch.wait.max.ms", "5")];

/// What [`PageReader::fetch`] gave.
pub(super) struct Fetched {
    /// In the order of the manifest.
    pub tensors: Vec<PagedTensor>,
    /// Pages that were not at hand.
    pub pages_read: usize,
    /// Their bytes.
    pub bytes_read: u64,
    /// Pages that were at hand.
    pub pages_reused: usize,
    /// Their bytes.
    pub bytes_reused: u64,
}

/// Reads single pages of a model's page topic. Blocks; used by one thread.
pub struct PageReader {
    reader: LogReader,
    topic: String,
    beat: Beat,
}

impl PageReader {
    /// A reader of the page topic of the model that the settings name. `client` names it in logs.
    pub fn new(settings: &Settings, client: &str) -> Result<Self, PublishError> {
        let topic = settings.topics.model(&settings.model.name);
        let reader = LogReader::tuned(&settings.kafka, client, &TUNING)?;
        Ok(Self { reader, topic, beat: Beat::default() })
    }

    /// The same, moving `beat` with each page and while it waits for one.
    pub(super) fn beating(self, beat: &Beat) -> Self {
        Self { beat: beat.clone(), ..self }
    }

    /// The contents of `pages` by digest, each checked for length and SHA-256 (invariant 8).
    ///
    /// # Errors
    /// An offset that is gone, holds no committed record, or holds other bytes than named.
    pub fn read<'a>(
        &mut self,
        pages: impl IntoIterator<Item = (&'a str, &'a v1::Page)>,
    ) -> Result<HashMap<Sha, Bytes>, PublishError> {
        let wanted: BTreeMap<i64, (&str, &v1::Page)> =
            pages.into_iter().map(|(tensor, page)| (page.offset, (tensor, page))).collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let read = self.read_in_order(wanted);
        // Else librdkafka would fetch all pages that follow into its queue.
        self.reader.assign(&[])?;
        read
    }

    fn read_in_order(
        &mut self,
        wanted: BTreeMap<i64, (&str, &v1::Page)>,
    ) -> Result<HashMap<Sha, Bytes>, PublishError> {
        let mut contents = HashMap::with_capacity(wanted.len());
        let mut position = None;
        for (offset, (tensor, page)) in wanted {
            if position.is_none_or(|position| !(0..=READ_OVER).contains(&(offset - position))) {
                self.reader.assign(&[(&self.topic, 0, offset)])?;
            }
            let bytes = self.record_at(tensor, offset)?;
            contents.insert(pages::verify_page(tensor, page, &bytes)?, bytes);
            position = Some(offset + 1);
        }
        Ok(contents)
    }

    /// The last stable offset of a topic of one partition. Between two reads this client fetches
    /// nothing; on the connection of one that does, a broker answers only after the fetch that
    /// waits there, up to half a second later.
    ///
    /// # Errors
    /// As [`LogReader::watermarks`].
    pub fn stable_end(&self, topic: &str) -> Result<i64, ReadError> {
        self.reader.watermarks(topic, 0).map(|(_, end)| end)
    }

    fn record_at(&self, tensor: &str, offset: i64) -> Result<Bytes, PublishError> {
        let missing = || Err(PageError::Missing { tensor: tensor.to_owned(), offset }.into());
        let (mut heard_at, mut asked) = (Instant::now(), false);
        while heard_at.elapsed() < SILENCE {
            self.beat.beat();
            let Some(record) = self.reader.poll(Duration::from_millis(100))? else {
                if !asked && heard_at.elapsed() >= ASK_AFTER {
                    asked = true;
                    let (_, end) = self.reader.watermarks(&self.topic, 0)?;
                    let passed = self.reader.position(&self.topic, 0).is_some_and(|next| next > offset);
                    if offset >= end || passed {
                        return missing();
                    }
                }
                continue;
            };
            (heard_at, asked) = (Instant::now(), false);
            match record.payload {
                Some(bytes) if record.offset == offset => return Ok(bytes),
                _ if record.offset >= offset => return missing(),
                _ => {}
            }
        }
        Err(PublishError::PageTimeout { topic: self.topic.clone(), offset, seconds: SILENCE.as_secs() })
    }

    /// Loads the tensors of `manifest` that `wanted` names, each checked.
    ///
    /// # Errors
    /// As [`PageReader::read`], and a tensor whose pages are not what it should be.
    pub fn load(
        &mut self,
        manifest: &v1::Manifest,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<HostTensor>, PublishError> {
        let tensors = self.fetch(manifest, &HashMap::new(), wanted)?.tensors;
        Verified::default().next(manifest, &tensors)?;
        Ok(tensors.into_iter().map(PagedTensor::join).collect())
    }

    /// As [`PageReader::load`], but for the check of the tensors as a whole, which is
    /// [`Verified::next`]. Pages whose digest is in `at_hand` are not read.
    pub(super) fn fetch(
        &mut self,
        manifest: &v1::Manifest,
        at_hand: &HashMap<Sha, Bytes>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Fetched, PublishError> {
        let tensors: Vec<&v1::Tensor> =
            manifest.tensors.iter().filter(|tensor| wanted(&tensor.name)).collect();
        let pages =
            || tensors.iter().flat_map(|tensor| tensor.pages.iter().map(|page| (tensor.name.as_str(), page)));
        let read = self.read(pages().filter(|(_, page)| find(at_hand, page).is_none()))?;
        let content = |page: &v1::Page| find(&read, page).or_else(|| find(at_hand, page)).cloned();
        let paged = tensors.iter().map(|tensor| PagedTensor::new(tensor, content));
        let paged = paged.collect::<Result<Vec<_>, _>>()?;
        let reused = pages().filter(|(_, page)| find(at_hand, page).is_some());
        Ok(Fetched {
            tensors: paged,
            pages_read: read.len(),
            bytes_read: read.values().map(|bytes| bytes.len() as u64).sum(),
            pages_reused: reused.clone().count(),
            bytes_reused: reused.map(|(_, page)| page.length).sum(),
        })
    }
}

fn find<'a>(contents: &'a HashMap<Sha, Bytes>, page: &v1::Page) -> Option<&'a Bytes> {
    contents.get(page.sha256.as_ref())
}
