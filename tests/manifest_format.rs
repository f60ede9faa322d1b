//! A manifest of every format ever released is still read as it was meant: the record value on the
//! left, what it says in proto3's JSON mapping on the right, both from the release that wrote them.

use easq::publish::manifest;

const RELEASED: [(&[u8], &str); 1] =
    [(include_bytes!("golden/manifest-format-1.pb"), include_str!("golden/manifest-format-1.json"))];

#[test]
fn manifests_of_released_formats_are_read_and_said_as_ever() {
    for (index, (value, json)) in RELEASED.into_iter().enumerate() {
        let manifest = manifest::decode(value, 42, "main").expect("a manifest that was valid stays valid");
        assert_eq!(manifest.format as usize, index + 1);
        assert_eq!(manifest::to_json(&manifest), json);
        // Behind it comes a digest, which the first release did not write.
        let written = manifest::encode(&manifest);
        assert_eq!(&written[..value.len()], value, "every field is known");
        assert_eq!(manifest::decode(&written, 42, "main").as_ref(), Ok(&manifest));
        let parsed: easq::contract::v1::Manifest = serde_json::from_str(json).expect("its JSON form");
        assert_eq!(parsed, manifest);
    }
}
