#[allow(clippy::all, missing_docs)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/easq.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/easq.v1.serde.rs"));
    pub mod envelope {
        include!(concat!(env!("OUT_DIR"), "/easq.v1.envelope.rs"));
    }
}
