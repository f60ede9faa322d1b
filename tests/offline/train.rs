//! `easq train`: what it learns of a file, from which beginning, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use easq::contract::v1::{self, Sample, sample};
use easq::model::{Dtype, HostTensor};
use easq::publish::files;
use easq::train::{Driver, Offered, PairSource, Trainer};

use crate::support::folders::{assert_same, contents, names};
use crate::support::{Easq, eventually};
use crate::{DEADLINE, command, read, settings, text, train, world, write};

/// Runs to an error with this exit code; what it says. Nothing was written, not even in part.
#[track_caller]
fn refused(samples: &Path, more: &[&str], code: i32) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (status, output) = Easq::run(command(samples, &dir.path().join("model"), more), DEADLINE);
    assert_eq!(status.code(), Some(code), "{output}");
    assert_eq!(names(dir.path()), [""; 0], "{output}");
    output
}

#[track_caller]
fn assert_same_bytes(left: &Path, right: &Path) {
    assert_same(&contents(left), &contents(right));
}

/// Learns in this process; the positions behind which no batch is open, and how many batches pairs closed.
fn learn(driver: &mut Driver<Trainer, ()>, samples: &[Sample]) -> (Vec<usize>, usize) {
    let (mut complete, mut by_pairs) = (Vec::new(), 0);
    for (index, sample) in samples.iter().enumerate() {
        match sample.sample.as_ref().expect("a sample") {
            sample::Sample::BehaviorGroup(group) => {
                complete.extend(driver.take_group((), group.clone()).map(|_| index + 1));
            }
            sample::Sample::PreferencePair(pair) => {
                let offset = driver.learner().preference_pairs_taken() as i64;
                let (offered, stepped) = driver.take_pair(pair, PairSource { partition: 0, offset });
                assert_eq!(offered, Offered::Taken);
                by_pairs += usize::from(stepped.is_some());
            }
            sample::Sample::HeldOutList(_) => panic!("a stream has no held-out list"),
        }
    }
    driver.close();
    (complete, by_pairs)
}

fn all_tensors(trainer: &Trainer) -> Vec<HostTensor> {
    sorted([trainer.serving_tensors(), trainer.training_state()].concat())
}

fn sorted(mut tensors: Vec<HostTensor>) -> Vec<HostTensor> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

#[test]
fn invariant_10_runs_on_one_file_give_the_same_bytes_and_so_does_a_stream_learned_in_two_files() {
    let (_, stream, _) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    let said = train(stream, &at("once"), &[]);
    for figure in ["steps", "behavior groups", "preference pairs", "L_main", "win rate", "λ2", "cost"] {
        assert!(said.contains(figure), "no {figure}: {said}");
    }
    train(stream, &at("again"), &[]);
    assert_same_bytes(&at("once"), &at("again"));

    let samples = read(stream);
    let settings = settings();
    let mut driver = Driver::new(Trainer::new(&settings).expect("a CPU"), settings.train.batch_groups);
    let (complete, by_pairs) = learn(&mut driver, &samples);
    assert!(by_pairs > 0, "no full reservoir has closed a batch");
    let written = files::read_folder(&at("once")).expect("a folder of files");
    assert!(sorted(written) == all_tensors(driver.learner()), "the command has learned something else");

    let cut = complete[complete.len() / 2];
    write(&at("first.jsonl"), &samples[..cut]);
    write(&at("second.pb"), &samples[cut..]);
    train(&at("first.jsonl"), &at("half"), &[]);
    train(&at("second.pb"), &at("resumed"), &["--init", text(&at("half"))]);
    assert_same_bytes(&at("once"), &at("resumed"));
    // The file with the state stands for its folder, and an empty folder may be there.
    fs::create_dir(at("from-state")).expect("a new folder");
    train(&at("second.pb"), &at("from-state"), &["--init", text(&at("half").join(files::TRAINING))]);
    assert_same_bytes(&at("once"), &at("from-state"));

    let manifest = files::read_manifest(&at("resumed")).expect("a manifest");
    let trainer = driver.learner();
    assert_eq!(manifest.step, trainer.steps());
    assert_eq!(manifest.behavior_groups_learned, trainer.behavior_groups_learned());
    assert_eq!(manifest.preference_pairs_learned, trainer.preference_pairs_learned());
    assert_eq!(manifest.progressive, Some(trainer.progressive()));
    let times = samples.iter().map(|sample| match &sample.sample {
        Some(sample::Sample::BehaviorGroup(group)) => group.event_time_ms,
        Some(sample::Sample::PreferencePair(pair)) => pair.event_time_ms,
        _ => 0,
    });
    assert_eq!(Some(manifest.event_time_watermark_ms), times.max());
    easq::publish::manifest::validate(&manifest, "main").expect("a manifest as every other");
}

#[test]
fn float64_is_learned_in_float64_and_gone_on_with_in_it() {
    let (_, stream, _) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (double, more) = (dir.path().join("double"), dir.path().join("more"));
    train(stream, &double, &["--dtype", "float64"]);
    let tensors = files::read_folder(&double).expect("a folder of files");
    let is_single = |tensor: &&HostTensor| tensor.dtype == Dtype::F32;
    assert_eq!(tensors.iter().find(is_single).map(|tensor| &tensor.name), None);
    let said = refused(stream, &["--init", text(&double), "--dtype", "float32"], 2);
    assert!(said.contains("F64") && said.contains("leave --dtype out"), "{said}");

    let part = dir.path().join("part.pb");
    write(&part, &read(stream)[..200]);
    train(&part, &more, &["--init", text(&double)]);
    let tensors = files::read_folder(&more).expect("a folder of files");
    assert_eq!(tensors.iter().find(is_single).map(|tensor| &tensor.name), None);
    // The samples that come last here are older than what the model knows.
    let [before, after] = [&double, &more].map(|dir| files::read_manifest(dir).expect("a manifest"));
    assert_eq!(after.event_time_watermark_ms, before.event_time_watermark_ms);
    assert!(after.step > before.step);
}

#[test]
fn a_file_of_parameters_is_where_training_begins_with_all_else_new() {
    let (_, stream, _) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    train(stream, &first, &[]);
    let parameters = files::read_tensors(&first.join(files::MODEL)).expect("its parameters");
    let settings = settings();
    let trainer = Trainer::from_parameters(&settings, parameters.clone()).expect("they fit");
    assert!(sorted(trainer.serving_tensors()) == sorted(parameters.clone()), "other parameters");
    assert_eq!((trainer.steps(), trainer.preference_pairs_taken()), (0, 0));
    let new = Trainer::new(&settings).expect("a CPU");
    let state: BTreeMap<_, _> =
        trainer.training_state().into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    for own in new.training_state() {
        let begun = &state[&own.name];
        match own.name.strip_prefix("training.twin.").filter(|name| !name.contains("ada")) {
            Some(name) => {
                let parameter = parameters.iter().find(|tensor| tensor.name == name).expect("its parameter");
                assert!(begun.data == parameter.data, "the twin has another {name}");
            }
            None if own.name.starts_with("training.normalizer.") => {}
            None => assert!(*begun == own, "{} is not new", own.name),
        }
    }

    train(stream, &second, &["--init", text(&first.join(files::MODEL))]);
    let mut driver = Driver::new(trainer, settings.train.batch_groups);
    learn(&mut driver, &read(stream));
    let written = sorted(files::read_folder(&second).expect("a folder of files"));
    assert!(written == all_tensors(driver.learner()), "the command has learned something else");
    for statistic in ["normalizer.mean", "normalizer.std"] {
        let of = |tensors: &[HostTensor]| tensors.iter().find(|tensor| tensor.name == statistic).cloned();
        assert_eq!(of(&written), of(&parameters), "frozen");
    }
    // Also for a run that goes on from it.
    let third = dir.path().join("third");
    train(stream, &third, &["--init", text(&second)]);
    let third = files::read_tensors(&third.join(files::MODEL)).expect("its parameters");
    let mean = |tensors: &[HostTensor]| tensors.iter().find(|t| t.name == "normalizer.mean").cloned();
    assert_eq!(mean(&third), mean(&parameters));
}

#[test]
fn in_adapter_mode_the_backbone_stays_and_a_run_goes_on_only_with_it() {
    let (_, stream, _) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    let backbone = |name: &str, seed: u64| {
        let mut settings = settings();
        settings.model.seed = seed;
        let mut tensors = Trainer::new(&settings).expect("a CPU").serving_tensors();
        tensors
            .retain(|t| !["main.", "satisfaction.", "projection.lora"].iter().any(|p| t.name.starts_with(p)));
        fs::create_dir(at(name)).expect("a new folder");
        files::write(&at(name), &v1::Manifest::default(), &tensors).expect("written");
        (format!("model.backbone={}", text(&at(name).join(files::MODEL))), tensors)
    };
    let (own, tensors) = backbone("own", 8);
    let (other, _) = backbone("other", 9);
    let samples = read(stream);
    // Groups alone close batches here: the cut lies behind the 8 · 20th of them.
    let groups = samples.iter().map(|s| matches!(s.sample, Some(sample::Sample::BehaviorGroup(_))));
    let cut = 1 + groups.enumerate().filter(|(_, is_group)| *is_group).nth(159).expect("as many groups").0;
    write(&at("first.pb"), &samples[..cut]);
    write(&at("second.pb"), &samples[cut..2 * cut]);
    write(&at("both.pb"), &samples[..2 * cut]);
    let (own, wide) = (["--set", &own], ["--set", "train.reservoir_pairs=2048"]);
    let with = |more: &[&str]| -> Vec<String> {
        [&own[..], &wide, more].concat().into_iter().map(str::to_owned).collect()
    };
    let run = |samples: &str, output: &str, more: &[&str]| {
        let more = with(more);
        train(&at(samples), &at(output), &more.iter().map(String::as_str).collect::<Vec<_>>());
    };
    run("both.pb", "once", &[]);
    run("first.pb", "half", &[]);
    run("second.pb", "resumed", &["--init", text(&at("half"))]);
    assert_same_bytes(&at("once"), &at("resumed"));
    run("second.pb", "begun", &["--init", text(&at("half").join(files::MODEL))]);
    for model in ["once", "begun"] {
        let written = files::read_tensors(&at(model).join(files::MODEL)).expect("its parameters");
        assert!(tensors.iter().all(|tensor| written.contains(tensor)), "{model} has another backbone");
    }
    let said = refused(stream, &["--init", text(&at("half")), "--set", &other], 1);
    assert!(said.contains("projection.weight has other values"), "{said}");
    let said = refused(stream, &["--init", text(&at("half"))], 2);
    assert!(said.contains("other settings of [model]"), "{said}");
}

#[test]
fn what_does_not_fit_is_refused_by_the_name_of_the_tensor() {
    let (_, stream, _) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let trainer = Trainer::new(&settings()).expect("a CPU");
    let whole = all_tensors(&trainer);
    let spoil = |name: &str, tensors: &[HostTensor], change: &dyn Fn(&mut Vec<HostTensor>)| {
        let mut tensors = tensors.to_vec();
        change(&mut tensors);
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("a new folder");
        files::write(&path, &v1::Manifest::default(), &tensors).expect("written");
        // Without what describes it: the tensors alone are judged.
        fs::remove_file(path.join(files::MANIFEST)).expect("it was there");
        path
    };
    let remove = |name: &'static str| move |tensors: &mut Vec<HostTensor>| tensors.retain(|t| t.name != name);
    let add =
        |tensors: &mut Vec<HostTensor>| tensors.push(HostTensor::from_f32("extra.bias", vec![1], &[0.0]));
    let misshape = |tensors: &mut Vec<HostTensor>| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "main.gate.bias").expect("a tensor");
        *tensor = HostTensor::from_f32("main.gate.bias", vec![2], &[0.0; 2]);
    };
    let break_value = |tensors: &mut Vec<HostTensor>| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "main.gate.bias").expect("a tensor");
        *tensor = HostTensor::from_f32("main.gate.bias", vec![4], &[0.0, f32::NAN, 0.0, 0.0]);
    };
    let serving = trainer.serving_tensors();
    let faults = [
        (spoil("missing", &serving, &remove("main.gate.bias")), "missing main.gate.bias"),
        (spoil("extra", &serving, &add), "not part of it extra.bias"),
        (spoil("misshapen", &serving, &misshape), "main.gate.bias is F32 [2] of 8 bytes, expected F32 [4]"),
        (spoil("broken", &serving, &break_value), "main.gate.bias has a value that is not finite"),
        (spoil("state", &whole, &remove("training.main.adam.v")), "missing training.main.adam.v"),
        (spoil("state-misshapen", &whole, &misshape), "main.gate.bias is F32 [2] of 8 bytes"),
    ];
    for (path, expected) in &faults {
        let said = refused(stream, &["--init", text(path)], 1);
        assert!(said.contains(expected), "no '{expected}': {said}");
    }
    // Not every difference shows in a shape.
    let model = dir.path().join("model");
    train(stream, &model, &[]);
    let said = refused(stream, &["--init", text(&model), "--set", "model.lora_alpha=3"], 2);
    assert!(said.contains("other settings of [model]"), "{said}");
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let (_, stream, _) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("precious"), "mine").expect("written");
    let (status, output) = Easq::run(command(stream, dir.path(), &[]), DEADLINE);
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(output.contains("--output") && output.contains("not empty"), "{output}");
    assert_eq!(names(dir.path()), ["precious"]);
}

#[test]
fn an_interruption_leaves_nothing_and_exits_4() {
    let (_, stream, _) = world();
    for signal in ["INT", "TERM"] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let arguments = command(stream, &dir.path().join("model"), &["--set", "train.batch_groups=1"]);
        // It stands still once it has learned for a while.
        let mut easq = Easq::start_with(arguments, [("FAILPOINTS", "train-sample=100*off->1*return(STOP)")]);
        easq.wait_for_output("training from a sample file begins", DEADLINE);
        eventually(DEADLINE, "100 samples are learned", || easq.is_frozen());
        easq.signal(signal);
        easq.signal("CONT");
        assert_eq!(easq.wait(DEADLINE).code(), Some(4), "{}", easq.output());
        assert!(easq.output().contains("nothing was written"), "{}", easq.output());
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[test]
fn what_cannot_be_learned_ends_without_a_model() {
    let (_, stream, lists) = world();
    let said = refused(lists, &[], 1);
    assert!(said.contains("sample 1") && said.contains("held-out"), "{said}");
    let said = refused(stream, &["--set", "features.schema_version=2"], 1);
    assert!(said.contains("nothing that could be learned") && said.contains("schema_version"), "{said}");
    // The first step makes a model of parameters so large that no later loss is finite.
    let said = refused(stream, &["--set", "train.learning_rate=1e30", "--set", "train.max_bad_batches=3"], 1);
    assert!(said.contains("3 batches in a row were skipped (train.max_bad_batches)"), "{said}");
    assert_eq!(said.matches("batch skipped").count(), 3, "{said}");
}
