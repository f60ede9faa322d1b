//! One step's mathematics: from samples to losses and gradients. Nothing here changes state.

use tch::{Kind, Tensor, no_grad};

use crate::contract::v1::Features;
use crate::model::{
    Architecture, DpoPairsForm, EncodedViews, HeadOutput, MainPath, Model, Placement, Scaling,
    ScoreDifferences, TouchedRows, ViewTensors, dpo_pairs, live_labels, satisfaction_loss, upload,
};
use crate::settings::{self, Dpo};

use super::groups::MainBatch;
use super::optimizer::MainGradients;
use super::price::Price;

/// One of the three losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// L_main: behavior pairs of the main path.
    Main,
    /// L_satis: preference pairs of the satisfaction path.
    Satisfaction,
    /// L_DPO: the main path by what the satisfaction path says.
    Dpo,
}

/// Which losses there are and what they weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Objective {
    /// λ1
    satisfaction_weight: f64,
    /// Off too where λ2 is 0 for good.
    dpo: Dpo,
    form: DpoPairsForm,
}

impl Objective {
    pub(super) fn new(train: &settings::Train) -> Objective {
        let is_weightless = Price::new(train).weight == 0.0;
        Objective {
            satisfaction_weight: train.satisfaction_weight,
            dpo: if is_weightless { Dpo::Off } else { train.dpo },
            form: DpoPairsForm { beta: train.dpo_beta, offset: train.dpo_offset },
        }
    }

    pub(super) fn applies(self, form: Dpo) -> bool {
        self.dpo == form
    }
}

/// Views of a batch as one main path reads them, with the rows that learning from them changes.
pub(super) struct Touched {
    /// Per table, [u] row numbers.
    pub(super) index: Vec<Tensor>,
    pub(super) views: Option<ViewTensors>,
}

/// Pairs of views within groups, [m] each.
pub(super) struct Pairs {
    pub(super) left: Tensor,
    pub(super) right: Tensor,
    /// 1 where behavior prefers the left one, −1 the right one, 0 neither.
    pub(super) preferred: Tensor,
    /// 1 where behavior prefers the right one, else 0.
    pub(super) right_is_better: Tensor,
    /// 1 / (behavior pairs) where behavior prefers either, else 0.
    pub(super) weight: Tensor,
}

/// The samples of one step as tensors.
pub(super) struct Batch {
    /// As the twin reads them, and the model too unless `joint` says otherwise.
    behavior: Touched,
    /// Where the drawn pairs teach the embeddings as well, as in the printed form of L_DPO.
    joint: Option<Touched>,
    /// Chosen, then rejected views of the drawn pairs; rows numbered as in `joint`, else whole.
    pub(super) drawn: Option<ViewTensors>,
    pub(super) pairs: Pairs,
    pub(super) behavior_pairs: usize,
}

impl Batch {
    /// `joins_drawn`: the drawn pairs teach the embeddings as well.
    pub(super) fn new(
        architecture: &Architecture,
        scaling: &Scaling,
        placement: Placement,
        joins_drawn: bool,
        main: &MainBatch,
        drawn: &[&Features],
    ) -> Batch {
        let Placement { device, .. } = placement;
        let kind = placement.kind();
        let encode = |views: &[&Features]| EncodedViews::new(architecture, scaling, views);
        let views = encode(&main.views);
        let touch = |rows: &TouchedRows| Touched {
            index: rows.index(device),
            views: (!main.views.is_empty()).then(|| views.upload_touched(rows, kind, device)),
        };
        let tables = architecture.sparse.len();
        let behavior = touch(&TouchedRows::of(&[&views], tables));
        let (mut joint, mut drawn_tensors) = (None, None);
        if !drawn.is_empty() {
            let encoded = encode(drawn);
            if joins_drawn {
                let rows = TouchedRows::of(&[&views, &encoded], tables);
                joint = Some(touch(&rows));
                drawn_tensors = Some(encoded.upload_touched(&rows, kind, device));
            } else {
                drawn_tensors = Some(encoded.upload(kind, device));
            }
        }
        let pairs = Pairs::new(main, placement);
        Batch { behavior, joint, drawn: drawn_tensors, pairs, behavior_pairs: main.behavior_pairs() }
    }

    /// What the model's main path reads.
    pub(super) fn model(&self) -> &Touched {
        self.joint.as_ref().unwrap_or(&self.behavior)
    }
}

impl Pairs {
    pub(super) fn new(main: &MainBatch, placement: Placement) -> Pairs {
        let float = |value: &dyn Fn(i8) -> f64| {
            let values: Vec<f64> = main.preferred.iter().map(|&preferred| value(preferred)).collect();
            upload(&Tensor::from_slice(&values), placement.kind(), placement.device)
        };
        let index = |views: &[i64]| upload(&Tensor::from_slice(views), Kind::Int64, placement.device);
        let weight = (main.behavior_pairs().max(1) as f64).recip();
        Pairs {
            left: index(&main.left),
            right: index(&main.right),
            preferred: float(&f64::from),
            right_is_better: float(&|preferred| f64::from(u8::from(preferred < 0))),
            weight: float(&|preferred| if preferred == 0 { 0.0 } else { weight }),
        }
    }
}

/// Copies of the rows that a step may change: leaves of the graph unless the backbone is frozen.
pub(super) fn gather(path: &MainPath, index: &[Tensor]) -> Vec<Tensor> {
    let rows = |(table, index): (&Tensor, &Tensor)| {
        no_grad(|| table.index_select(0, index)).set_requires_grad(!path.is_frozen())
    };
    path.tables.iter().zip(index).map(rows).collect()
}

/// What L_main and L_DPO teach of a path, given the rows that were gathered: its group, then those.
pub(super) fn leaves<'a>(path: &'a MainPath, rows: &'a [Tensor]) -> Vec<&'a Tensor> {
    let rows = if path.is_frozen() { &[] } else { rows };
    path.group.leaves().iter().chain(rows).collect()
}

/// Splits gradients by [`leaves`]; `index` are the rows' numbers.
pub(super) fn main_gradients(path: &MainPath, mut gradients: Vec<Tensor>, index: &[Tensor]) -> MainGradients {
    let rows = gradients.split_off(path.group.leaves().len());
    let index = index[..rows.len()].iter().map(Tensor::shallow_clone).collect();
    MainGradients { flat: flatten(&gradients), index, rows }
}

/// The model's scores and losses on one batch; a loss over no pairs is None.
pub(super) struct Forward {
    rows: Vec<Tensor>,
    pub(super) scores: Option<HeadOutput>,
    /// [m] how they rank the pairs, where there are behavior pairs: see [`ScoreDifferences::ranks`].
    pub(super) ranks: Option<Tensor>,
    /// ŝ of the batch's views, where the live form needed it.
    pub(super) satisfaction: Option<Tensor>,
    pub(super) main: Option<Tensor>,
    pub(super) satisfaction_loss: Option<Tensor>,
    pub(super) dpo: Option<Tensor>,
}

impl Forward {
    /// `labels_known`: the satisfaction head has learned before, so it may label live pairs.
    pub(super) fn new(model: &Model, batch: &Batch, objective: Objective, labels_known: bool) -> Forward {
        let rows = gather(&model.main, &batch.model().index);
        let mut forward = Forward {
            rows,
            scores: None,
            ranks: None,
            satisfaction: None,
            main: None,
            satisfaction_loss: None,
            dpo: None,
        };
        if let Some(views) = &batch.model().views {
            let live = objective.applies(Dpo::Live) && (labels_known || batch.drawn.is_some());
            forward.score_views(model, views, batch, live);
        }
        if let Some(drawn) = &batch.drawn {
            forward.score_drawn(model, drawn, batch, objective);
        }
        forward
    }

    fn score_views(&mut self, model: &Model, views: &ViewTensors, batch: &Batch, live: bool) {
        let Pairs { left, right, preferred, right_is_better, weight } = &batch.pairs;
        let x = views.input(&self.rows);
        let output = model.score(&x);
        let differences = ScoreDifferences::new(&output.score, left, right);
        if batch.behavior_pairs > 0 {
            self.main = Some(differences.main_loss(right_is_better, weight));
            self.ranks = Some(differences.ranks(preferred));
        }
        if live {
            let satisfaction = no_grad(|| model.satisfaction(&x).score);
            self.dpo = Some(differences.dpo_live(&live_labels(&satisfaction, left, right)));
            self.satisfaction = Some(satisfaction);
        }
        self.scores = Some(output);
    }

    fn score_drawn(&mut self, model: &Model, drawn: &ViewTensors, batch: &Batch, objective: Objective) {
        let x = match batch.joint {
            Some(_) => drawn.input(&self.rows),
            None => no_grad(|| drawn.input(&model.main.tables)),
        };
        let satisfaction = model.satisfaction(&x).score;
        self.satisfaction_loss = Some(satisfaction_loss(&satisfaction));
        if batch.joint.is_some() {
            self.dpo = Some(dpo_pairs(&model.score(&x).score, &satisfaction, objective.form));
        }
    }

    pub(super) fn loss(&self, loss: Loss) -> Option<&Tensor> {
        match loss {
            Loss::Main => self.main.as_ref(),
            Loss::Satisfaction => self.satisfaction_loss.as_ref(),
            Loss::Dpo => self.dpo.as_ref(),
        }
    }

    /// Gradients of L_main + λ1 L_satis + λ2 L_DPO; λ2 is on the device, 0-dimensional.
    pub(super) fn gradients(
        &self,
        model: &Model,
        batch: &Batch,
        objective: Objective,
        dpo_weight: &Tensor,
    ) -> Gradients {
        let terms = [
            self.main.as_ref().map(Tensor::shallow_clone),
            self.satisfaction_loss.as_ref().map(|loss| loss * objective.satisfaction_weight),
            self.dpo.as_ref().map(|loss| loss * dpo_weight.to_kind(loss.kind())),
        ];
        let Some(total) = terms.into_iter().flatten().reduce(|sum, term| sum + term) else {
            return Gradients { main: None, satisfaction: None };
        };
        let teaches_main = self.main.is_some() || self.dpo.is_some();
        let teaches_satisfaction = self.satisfaction_loss.is_some();
        self.backward(&total, model, &batch.model().index, teaches_main, teaches_satisfaction)
    }

    /// Gradients of one loss alone by all parameters, whether it may reach them or not.
    pub(super) fn gradients_of(&self, loss: Loss, model: &Model, batch: &Batch) -> Option<Gradients> {
        Some(self.backward(self.loss(loss)?, model, &batch.model().index, true, true))
    }

    fn backward(
        &self,
        total: &Tensor,
        model: &Model,
        index: &[Tensor],
        main: bool,
        satisfaction: bool,
    ) -> Gradients {
        let of_main = if main { leaves(&model.main, &self.rows) } else { Vec::new() };
        let of_satisfaction = model.satisfaction.group.leaves().iter().filter(|_| satisfaction);
        let all: Vec<&Tensor> = of_main.iter().copied().chain(of_satisfaction).collect();
        let mut gradients = run_backward(total, &all);
        let rest = gradients.split_off(of_main.len());
        Gradients {
            main: main.then(|| main_gradients(&model.main, gradients, index)),
            satisfaction: satisfaction.then(|| flatten(&rest)),
        }
    }
}

/// None where nothing is to be learned; such a group is not stepped at all.
pub(super) struct Gradients {
    pub(super) main: Option<MainGradients>,
    /// [elements] of LoRA and satisfaction head
    pub(super) satisfaction: Option<Tensor>,
}

/// The behavior-only twin's scores on a batch, and its loss.
pub(super) struct TwinForward {
    rows: Vec<Tensor>,
    pub(super) score: Tensor,
    /// As in [`Forward`].
    pub(super) ranks: Option<Tensor>,
    pub(super) loss: Option<Tensor>,
}

impl TwinForward {
    /// None without views.
    pub(super) fn new(twin: &MainPath, batch: &Batch) -> Option<TwinForward> {
        let Pairs { left, right, preferred, right_is_better, weight } = &batch.pairs;
        let views = batch.behavior.views.as_ref()?;
        let rows = gather(twin, &batch.behavior.index);
        let score = twin.head(&twin.project(&views.input(&rows))).score;
        let differences = (batch.behavior_pairs > 0).then(|| ScoreDifferences::new(&score, left, right));
        let loss = differences.as_ref().map(|differences| differences.main_loss(right_is_better, weight));
        let ranks = differences.map(|differences| differences.ranks(preferred));
        Some(TwinForward { rows, score, ranks, loss })
    }

    /// None where nothing is to be learned.
    pub(super) fn gradients(&self, twin: &MainPath, batch: &Batch) -> Option<MainGradients> {
        let gradients = run_backward(self.loss.as_ref()?, &leaves(twin, &self.rows));
        Some(main_gradients(twin, gradients, &batch.behavior.index))
    }
}

/// ŷ of the pair's two views, chosen and rejected, [2] by the model and [2] by its twin.
pub(super) fn score_pair(model: &Model, twin: &MainPath, views: &ViewTensors) -> [Tensor; 2] {
    no_grad(|| {
        [
            model.score(&views.input(&model.main.tables)).score,
            twin.head(&twin.project(&views.input(&twin.tables))).score,
        ]
    })
}

/// The gradient of a scalar by each leaf; zeros where it does not depend on it.
pub(super) fn run_backward(total: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
    let gradients = Tensor::run_backward(&[total], leaves, false, false);
    let defined = |(gradient, leaf): (Tensor, &&Tensor)| {
        if gradient.defined() { gradient } else { leaf.zeros_like() }
    };
    gradients.into_iter().zip(leaves).map(defined).collect()
}

pub(super) fn flatten(gradients: &[Tensor]) -> Tensor {
    let parts: Vec<Tensor> = gradients.iter().map(|gradient| gradient.reshape(-1)).collect();
    Tensor::cat(&parts, 0)
}
