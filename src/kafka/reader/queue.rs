//! What librdkafka has fetched of one partition, taken in batches.
//!
//! rdkafka's own poll gives one record a call, and each call looks at the clock, locks the queue and allocates
//! an event: for small records that costs more than reading them. librdkafka hands out many at once.

use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use crate::kafka::client::Context;

/// Records of one batch, at most.
const BATCH: usize = 128;

/// The queue of a partition: what is fetched of it comes here, and nowhere else.
pub(super) struct Queue {
    native: NonNull<native::rd_kafka_queue_t>,
    /// Outlives the queue, which is a part of it.
    _consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka's queues are thread-safe, and nobody else has this reference to one.
#[allow(unsafe_code)]
unsafe impl Send for Queue {}

/// What a queue holds.
pub(super) enum Queued<'a> {
    Message(Message<'a>),
    /// Nothing more is committed before this offset, for now.
    End(i64),
    Error(QueuedError),
}

/// What went wrong with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuedError {
    pub code: RDKafkaErrorCode,
    /// Where, if librdkafka knows it.
    pub offset: Option<i64>,
}

/// A record in librdkafka's memory.
pub(super) struct Message<'a> {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
}

impl Queue {
    /// Gives a partition a queue of its own, before it is assigned: what is fetched without one comes out of
    /// the consumer's. `None` of a name or number that no partition can have.
    #[allow(unsafe_code)]
    pub fn split(consumer: &Arc<BaseConsumer<Context>>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client lives as long as the consumer; the name is copied; the reference to the queue is
        // given up by `drop` alone.
        let queue = unsafe {
            let client = consumer.client().native_ptr();
            native::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition)
        };
        let native = NonNull::new(queue)?;
        // SAFETY: as above. A queue that was told to forward nowhere keeps to that when it is assigned.
        unsafe { native::rd_kafka_queue_forward(native.as_ptr(), ptr::null_mut()) };
        Some(Self { native, _consumer: Arc::clone(consumer) })
    }

    /// Gives what is there to `each`, up to a batch. Where there is nothing, waits for up to `timeout`; false
    /// when nothing came.
    pub fn take(&mut self, timeout: Duration, mut each: impl FnMut(Queued<'_>)) -> bool {
        let mut room = [ptr::null_mut(); BATCH];
        // librdkafka waits until all room is taken or the time is over.
        let mut count = self.consume(&mut room, Duration::ZERO);
        if count == 0 {
            count = self.consume(&mut room[..1], timeout);
        }
        for taken in (Batch { queue: self, left: &room[..count] }) {
            each(taken.queued());
        }
        count > 0
    }

    /// Fills `room` from its beginning with messages that are the caller's; their number.
    #[allow(unsafe_code)]
    fn consume(&mut self, room: &mut [*mut native::rd_kafka_message_t], timeout: Duration) -> usize {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives, and librdkafka writes no more pointers than there is room for.
        let count = unsafe {
            native::rd_kafka_consume_batch_queue(
                self.native.as_ptr(),
                timeout_ms,
                room.as_mut_ptr(),
                room.len(),
            )
        };
        // It tells an error of a partition as a message; -1 is what its older interface gave for a topic that it
        // did not know.
        debug_assert!(count >= 0, "librdkafka gave {count} messages");
        usize::try_from(count).unwrap_or(0)
    }
}

impl Drop for Queue {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the one reference to the queue, while the consumer still lives.
        unsafe { native::rd_kafka_queue_destroy(self.native.as_ptr()) };
    }
}

/// Messages that came out of a queue. Those that nobody looks at are given back too.
struct Batch<'a> {
    queue: &'a Queue,
    left: &'a [*mut native::rd_kafka_message_t],
}

impl<'a> Iterator for Batch<'a> {
    type Item = Taken<'a>;

    fn next(&mut self) -> Option<Taken<'a>> {
        let (&native, left) = self.left.split_first()?;
        self.left = left;
        Some(Taken { native, _queue: self.queue })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// A message that came out of a queue, given back when it is dropped.
struct Taken<'a> {
    native: *mut native::rd_kafka_message_t,
    /// Keeps its client.
    _queue: &'a Queue,
}

impl Taken<'_> {
    #[allow(unsafe_code)]
    fn queued(&self) -> Queued<'_> {
        // SAFETY: a message and its bytes stay as they are until it is given back.
        unsafe {
            let message = &*self.native;
            match message.err {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => return Queued::End(message.offset),
                error => {
                    // Negative where it concerns no offset.
                    let offset = Some(message.offset).filter(|&offset| offset >= 0);
                    return Queued::Error(QueuedError { code: error.into(), offset });
                }
            }
            let bytes = |start: *mut c_void, length| {
                (!start.is_null()).then(|| slice::from_raw_parts(start.cast_const().cast::<u8>(), length))
            };
            let timestamp_ms = native::rd_kafka_message_timestamp(self.native, ptr::null_mut());
            Queued::Message(Message {
                offset: message.offset,
                // So librdkafka says that there is none.
                timestamp_ms: Some(timestamp_ms).filter(|&time_ms| time_ms != -1),
                key: bytes(message.key, message.key_len),
                payload: bytes(message.payload, message.len),
            })
        }
    }
}

impl Drop for Taken<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the message is this value's own, and nothing of it is borrowed any more.
        unsafe { native::rd_kafka_message_destroy(self.native) };
    }
}
