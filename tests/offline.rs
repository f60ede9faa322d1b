//! `easq train` and `easq evaluate` on files, without Kafka: what they write and say is a function of
//! the files alone (invariant 10).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use easq::contract::samples::{SampleReader, SampleWriter};
use easq::contract::v1::{self, Features, Sample, sample};
use easq::kafka::client::property_fault;
use easq::model::{Architecture, Dtype, HostTensor, Scorer, reward};
use easq::publish::files;
use easq::settings::{Settings, Sources, load};
use easq::train::{Driver, Offered, PairSource, Trainer, behavior_only_tensors};
use serde_json::Value;
use support::folders::{assert_same, contents, names};
use support::{Easq, eventually};

const DEADLINE: Duration = Duration::from_secs(120);
const VIEWS: usize = 6_000;
/// Few places in the reservoir, so that pairs close batches too; statistics that freeze on the way.
const SETTINGS: [&str; 5] = [
    "train.device=cpu",
    "train.batch_groups=8",
    "train.reservoir_pairs=32",
    "train.normalizer_views=3000",
    "train.progressive_pairs=2000",
];

fn settings() -> Settings {
    let overrides = SETTINGS.map(str::to_owned).to_vec();
    let sources = Sources { file: None, environment: Vec::new(), overrides };
    load(&sources, property_fault).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The stream and the held-out lists of one small world with many answers.
fn world() -> &'static (tempfile::TempDir, PathBuf, PathBuf) {
    static WORLD: OnceLock<(tempfile::TempDir, PathBuf, PathBuf)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (samples, lists) = (dir.path().join("stream.pb"), dir.path().join("lists.jsonl"));
        let (views, users) = (VIEWS.to_string(), "120");
        let many = ["--exposure", "0.5", "--answer-rate", "0.4", "--lists", "60", "--seed", "3"];
        let world = ["simulate", "--views", &views, "--users", users, "--start", "2026-01-01T00:00:00Z"];
        let written = ["--samples", text(&samples), "--held-out", text(&lists)];
        let (status, output) = Easq::run([&world[..], &many, &written].concat(), DEADLINE);
        assert!(status.success(), "{output}");
        (dir, samples, lists)
    })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

fn read(path: &Path) -> Vec<Sample> {
    SampleReader::open(path).expect("a sample file").map(|sample| sample.expect("a sample")).collect()
}

fn write(path: &Path, samples: &[Sample]) {
    let mut writer = SampleWriter::create(path).expect("a new file");
    samples.iter().for_each(|sample| writer.write(sample).expect("it is written"));
    writer.finish().expect("it is written");
}

/// The command line of `easq train` with the settings of these tests.
fn command(samples: &Path, output: &Path, more: &[&str]) -> Vec<String> {
    let words = ["train", "--samples", text(samples), "--output", text(output)];
    let sets = SETTINGS.iter().flat_map(|setting| ["--set", setting]);
    words.into_iter().chain(sets).chain(more.iter().copied()).map(str::to_owned).collect()
}

#[track_caller]
fn train(samples: &Path, output: &Path, more: &[&str]) -> String {
    let (status, output) = Easq::run(command(samples, output, more), DEADLINE);
    assert!(status.success(), "{output}");
    output
}

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

#[derive(Debug, Default)]
struct Figures {
    lists: f64,
    hits: [f64; 3],
    ndcg: [f64; 3],
    reciprocal: f64,
    behavior: (f64, f64),
    stream_behavior: (f64, f64),
    preference: (f64, f64),
}

/// Pairs in the order that people gave them, in the order that the scores give them.
fn ordered(scores: &[f64], rewards: &[f64], margin: f64) -> (f64, f64) {
    let (mut right, mut pairs) = (0.0, 0.0);
    for i in 0..scores.len() {
        for j in (0..scores.len()).filter(|&j| rewards[i] - rewards[j] > margin) {
            pairs += 1.0;
            right += if scores[i] > scores[j] { 1.0 } else { 0.0 };
            right += if scores[i] == scores[j] { 0.5 } else { 0.0 };
        }
    }
    (right, pairs)
}

fn measure(scorer: &Scorer, settings: &Settings, samples: &[Sample]) -> Figures {
    let mut figures = Figures::default();
    let score = |views: &[v1::BehaviorEvent]| {
        let features: Vec<&Features> = views.iter().map(|view| view.features.as_ref().unwrap()).collect();
        scorer.score(&features).unwrap()
    };
    let rewards = |views: &[v1::BehaviorEvent]| -> Vec<f64> {
        let of =
            |view: &v1::BehaviorEvent| reward(&settings.reward, view.engagement.as_ref().unwrap()).unwrap();
        views.iter().map(of).collect()
    };
    let add = |sum: &mut (f64, f64), (right, pairs)| *sum = (sum.0 + right, sum.1 + pairs);
    for sample in samples {
        match sample.sample.as_ref().unwrap() {
            sample::Sample::HeldOutList(list) => {
                let scores = score(&list.views);
                let own = scores[list.relevant as usize];
                let rank = 1 + scores.iter().filter(|score| **score > own).count();
                figures.lists += 1.0;
                for (sum, k) in figures.hits.iter_mut().zip([1, 5, 10]) {
                    *sum += f64::from(u8::from(rank <= k));
                }
                for (sum, k) in figures.ndcg.iter_mut().zip([5, 10, 20]) {
                    *sum += if rank <= k { 2_f64.ln() / ((1 + rank) as f64).ln() } else { 0.0 };
                }
                figures.reciprocal += 1.0 / rank as f64;
                let pairs = ordered(&scores, &rewards(&list.views), settings.reward.margin);
                add(&mut figures.behavior, pairs);
            }
            sample::Sample::BehaviorGroup(group) if group.views.len() > 1 => {
                let pairs = ordered(&score(&group.views), &rewards(&group.views), settings.reward.margin);
                add(&mut figures.stream_behavior, pairs);
            }
            sample::Sample::BehaviorGroup(_) => {}
            sample::Sample::PreferencePair(pair) => {
                let views = [&pair.chosen, &pair.rejected].map(|v| v.clone().unwrap().view.unwrap());
                add(&mut figures.preference, ordered(&score(&views), &[1.0, 0.0], 0.0));
            }
        }
    }
    figures
}

fn assert_close(said: &Value, expected: f64, what: &str) {
    let said = said.as_f64().unwrap_or_else(|| panic!("no {what}"));
    assert!((said - expected).abs() < 1e-12, "{what}: {said}, computed here: {expected}");
}

fn evaluate(model: &Path, samples: &Path, more: &[&str]) -> String {
    let words = ["evaluate", "--model", text(model), "--samples", text(samples)];
    let (status, output) = Easq::run([&words[..], more].concat(), DEADLINE);
    assert!(status.success(), "{output}");
    output
}

fn json(output: &str) -> Value {
    let line = output.lines().find(|line| line.starts_with('{')).expect("a JSON object");
    serde_json::from_str(line).expect("JSON")
}

#[test]
fn the_figures_are_those_of_an_independent_computation_for_the_model_and_for_its_twin() {
    let (_, stream, lists) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    train(stream, &model, &["--set", "train.price_control=off", "--set", "train.dpo_weight=3"]);
    // The place of the relevant view must not matter.
    let mut held_out = read(lists);
    for (index, sample) in held_out.iter_mut().enumerate() {
        let Some(sample::Sample::HeldOutList(list)) = &mut sample.sample else { panic!("a list") };
        list.views.swap(0, index % 21);
        list.relevant = (index % 21) as u32;
    }
    let mixed = dir.path().join("mixed.pb");
    let samples = [held_out, read(stream)[..600].to_vec()].concat();
    write(&mixed, &samples);
    let said = json(&evaluate(&model, &mixed, &["--json"]));

    let settings = settings();
    let architecture = Architecture::from_settings(&settings);
    let tensors = files::read_folder(&model).expect("a folder of files");
    let twin = behavior_only_tensors(&tensors).expect("a twin");
    let mut differences = Vec::new();
    for (name, tensors) in [("model", tensors), ("behavior_only", twin)] {
        let scorer = Scorer::from_tensors(&architecture, tensors).expect("a model");
        let expected = measure(&scorer, &settings, &samples);
        let (lists, stream) = (&said[name]["held_out"], &said[name]["stream"]);
        assert_close(&lists["lists"], expected.lists, "lists");
        for (key, sum) in ["hr_at_1", "hr_at_5", "hr_at_10"].iter().zip(expected.hits) {
            assert_close(&lists[key], sum / expected.lists, key);
        }
        for (key, sum) in ["ndcg_at_5", "ndcg_at_10", "ndcg_at_20"].iter().zip(expected.ndcg) {
            assert_close(&lists[key], sum / expected.lists, key);
        }
        assert_close(&lists["mrr"], expected.reciprocal / expected.lists, "mrr");
        let shares = [
            (lists, "behavior", expected.behavior),
            (stream, "behavior", expected.stream_behavior),
            (stream, "preference", expected.preference),
        ];
        for (object, kind, (right, pairs)) in shares {
            assert!(pairs > 10.0, "{kind}");
            assert_close(&object[format!("{kind}_pairs")], pairs, kind);
            assert_close(&object[format!("{kind}_accuracy")], right / pairs, kind);
        }
        differences.push(expected.preference.0 / expected.preference.1);
    }
    let difference = differences[0] - differences[1];
    assert_close(&said["difference"]["preference accuracy, stream"], difference, "difference");
    assert!(difference > 0.0, "the model has learned the answers, its twin has not: {difference}");
    assert!(said["notes"][0].as_str().is_some_and(|note| note.contains("optimistic")), "{said}");

    let table = evaluate(&model, lists, &[]);
    for part in ["NDCG@20", "behavior-only twin", "difference", "60 lists"] {
        assert!(table.contains(part), "no {part}: {table}");
    }
    assert!(!table.contains("optimistic"), "held-out lists are not: {table}");
}

#[test]
fn a_folder_without_training_state_is_evaluated_alone_and_scored() {
    let (_, stream, lists) = world();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    let part = dir.path().join("part.pb");
    write(&part, &read(stream)[..100]);
    train(&part, &model, &[]);
    let beside = json(&evaluate(&model, lists, &["--json"]));
    fs::remove_file(model.join(files::TRAINING)).expect("it was there");
    let alone = json(&evaluate(&model, lists, &["--json"]));
    assert_eq!(alone["behavior_only"], Value::Null);
    assert_eq!((&alone["model"], &alone["model"]["stream"]), (&beside["model"], &Value::Null));
    let words = ["score", "--dir", text(&model), "--samples", text(lists)];
    let (status, output) = Easq::run(words, DEADLINE);
    assert!(status.success(), "{output}");
    assert_eq!(output.lines().filter(|line| line.contains("\"score\"")).count(), 60 * 21);

    let empty = dir.path().join("empty.pb");
    write(&empty, &[]);
    let words = ["evaluate", "--model", text(&model), "--samples", text(&empty)];
    let (status, output) = Easq::run(words, DEADLINE);
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("nothing to evaluate on"), "{output}");
}

#[test]
fn lists_do_not_share_a_file_with_the_stream() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("both.pb");
    let words = ["simulate", "--views", "10", "--samples", text(&path), "--held-out", text(&path)];
    let (status, output) = Easq::run(words, DEADLINE);
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(!path.exists() && output.contains("--held-out and --samples"), "{output}");
}
