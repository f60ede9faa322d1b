//! `easq model export`: any version of the registry as the folder that a follower keeps of it, and
//! checkpoints as what training goes on from.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use easq::model::HostTensor;
use easq::publish::files;
use easq::publish::registry::PIN;
use sha2::{Digest, Sha256};
use support::folders::contents;
use support::lineage::registry;
use support::model::{DEADLINE, Model, candidate, loaded, pointer, small_pages};
use support::trainers::{PARTITIONS, SOON, Trainer, line, production_learns_all};
use support::{Easq, Line, Samples};

/// Runs `easq model export`; its exit code and what it printed.
fn export(line: &Line, words: &[&str], output: &Path) -> (Option<i32>, String) {
    let output = output.to_str().expect("a path in UTF-8");
    let command = [&["model", "export"], words, &["--output", output]].concat();
    let (status, output) = Easq::run(line.arguments(&command), SOON);
    (status.code(), output)
}

/// A model with four versions, of which the second is pinned, and what a follower wrote of each.
struct Followed {
    line: Line,
    model: Model,
    dir: tempfile::TempDir,
    versions: BTreeMap<u64, BTreeMap<String, Vec<u8>>>,
}

impl Followed {
    fn new(prefix: &str) -> Self {
        let line = small_pages(prefix).set("publish.keep_versions", 20);
        let mut model = Model::new(&line);
        let dir = tempfile::tempdir().expect("a folder");
        let mut follower = model.follow(dir.path());
        let mut versions = BTreeMap::new();
        for version in 1..=4 {
            // The third is a checkpoint.
            model.publish(candidate(7 + version));
            loaded(&mut follower, version);
            versions.insert(version, contents(&dir.path().join("current/")));
        }
        Self { line, model, dir, versions }
    }

    fn output(&self, name: &str) -> PathBuf {
        self.dir.path().join("exported").join(name)
    }

    /// Exports, and finds the files of this version and nothing else.
    #[track_caller]
    fn gives(&self, words: &[&str], version: u64) {
        let output = self.output("version");
        let (code, said) = export(&self.line, words, &output);
        assert_eq!(code, Some(0), "{words:?}: {said}");
        assert!(said.contains(&format!("version {version} of model")), "{said}");
        assert!(contents(&output) == self.versions[&version], "{words:?} is not version {version}");
        let beside = fs::read_dir(self.output("")).expect("the folder around it").count();
        fs::remove_dir_all(&output).expect("removed");
        assert_eq!(beside, 1, "nothing is left beside it");
    }

    /// Exports to an error with this exit code; what it says. Nothing was written.
    #[track_caller]
    fn refuses(&self, words: &[&str], code: i32) -> String {
        let output = self.output("refused");
        let (found, said) = export(&self.line, words, &output);
        assert_eq!(found, Some(code), "{words:?}: {said}");
        assert!(!output.exists());
        said
    }
}

#[test]
fn an_exported_version_is_byte_for_byte_what_a_follower_keeps_of_it() {
    let followed = Followed::new("export");
    assert_eq!(followed.versions[&3].len(), 4, "no training state, though it is a checkpoint");
    for version in 1..=4 {
        followed.gives(&[&version.to_string()], version);
    }
    followed.gives(&["production"], 4);
    followed.gives(&[], 4);
    followed.model.write(&[(PIN.to_owned(), pointer(2))]);
    followed.gives(&["pin"], 2);
    followed.gives(&[], 2);
    followed.gives(&["production"], 4);
}

#[test]
fn what_cannot_be_exported_is_said_with_what_there_is_and_nothing_is_written() {
    let followed = Followed::new("export-refused");
    let said = followed.refuses(&["7"], 1);
    assert!(said.contains("version 7 of model") && said.contains("which holds 1 to 4"), "{said}");
    let said = followed.refuses(&["pin"], 1);
    assert!(said.contains("pin"), "{said}");
    let said = followed.refuses(&["4", "--checkpoint"], 1);
    assert!(said.contains("version 4") && said.contains("checkpoints: 3"), "{said}");
    // Readers follow 4; the third is the newest checkpoint.
    let newest = followed.output("newest");
    let (code, said) = export(&followed.line, &["--checkpoint"], &newest);
    assert!(code == Some(0) && said.contains("version 3 of model"), "{said}");
    fs::remove_dir_all(&newest).expect("removed");
    let said = followed.refuses(&["newest"], 2);
    assert!(said.contains("a version's number, production or pin"), "{said}");
    followed.model.write(&[("versions/9".to_owned(), b"\xff\xff".to_vec())]);
    let said = followed.refuses(&["9"], 1);
    assert!(said.contains("does not decode"), "{said}");

    // A folder with something in it stays as it is; an empty one is taken.
    let taken = followed.output("taken");
    fs::create_dir_all(&taken).expect("made");
    fs::write(taken.join("notes.txt"), "mine").expect("written");
    let (code, said) = export(&followed.line, &["1"], &taken);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("taken") && said.contains("not empty"), "{said}");
    assert_eq!(contents(&taken), BTreeMap::from([("notes.txt".to_owned(), b"mine".to_vec())]));
    fs::remove_file(taken.join("notes.txt")).expect("removed");
    assert_eq!(export(&followed.line, &["1"], &taken).0, Some(0));
    assert!(contents(&taken) == followed.versions[&1]);
}

#[test]
fn training_goes_on_from_an_exported_checkpoint() {
    let line = line("export-checkpoint");
    let settings = line.settings();
    let trainer = Trainer::start(&line);
    Samples::new(&settings, PARTITIONS).write(100);
    production_learns_all(&line);
    trainer.stop();
    let checkpoint = registry(&settings).newest_checkpoint().expect("that of a clean stop").clone();
    assert_eq!(checkpoint.behavior_groups_learned, 100);

    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let version = checkpoint.version.to_string();
    let (code, said) = export(&line, &[&version, "--checkpoint"], &path("state"));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = export(&line, &["--checkpoint"], &path("newest"));
    assert_eq!(code, Some(0), "{said}");
    assert!(contents(&path("newest")) == contents(&path("state")), "{said}");
    let (code, said) = export(&line, &[&version], &path("served"));
    assert_eq!(code, Some(0), "{said}");
    let tensors = files::read_folder(&path("state")).expect("files");
    let digests: BTreeMap<&str, _> =
        checkpoint.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.sha256[..])).collect();
    let is_named =
        |tensor: &HostTensor| digests.get(&*tensor.name) == Some(&&Sha256::digest(&tensor.data)[..]);
    assert!(tensors.len() == digests.len() && tensors.iter().all(is_named), "all of the checkpoint");

    let samples = path("samples.pb").display().to_string();
    let (status, said) =
        Easq::run(line.arguments(&["simulate", "--views", "2000", "--samples", &samples]), DEADLINE);
    assert!(status.success(), "{said}");
    let train = |init: &str, output: &str| {
        let [init, output] = [init, output].map(|name| path(name).display().to_string());
        let command = ["train", "--samples", &samples, "--init", &init, "--output", &output];
        let (status, said) = Easq::run(line.arguments(&command), SOON);
        assert!(status.success(), "{said}");
        files::read_manifest(Path::new(&output)).expect("a manifest")
    };
    let (onward, anew) = (train("state", "onward"), train("served", "anew"));
    assert!(onward.step > anew.step);
    assert_eq!(onward.step - checkpoint.step, anew.step, "the steps of the samples come on top");
    assert_eq!(onward.behavior_groups_learned - 100, anew.behavior_groups_learned);
}
