//! The join against a brute-force oracle that shares no code with it, and its promises one by one.

mod builders;
mod driver;
mod oracle;
mod promises;
mod restart;
mod truth;
