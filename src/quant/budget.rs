//! Bits under a budget: one choice for each of several decisions, least summed loss, no more bits than there are (the
//! multiple-choice knapsack problem; Kellerer, Pferschy and Pisinger, Knapsack Problems, 2004, chapter 11).
//!
//! A price λ per bit makes every decision its own: least `loss + λ·bits`. The price at which the budget is just met bounds the
//! loss of every allocation from below, a greedy one bounds it from above, and few choices are ever between these two. Those
//! are tried in all combinations that may still win.

use crate::fault::Fault;

/// Partial allocations that are followed at a time; beyond it the least promising are given up, and the gap says so.
const WIDTH: usize = 1 << 14;

/// What one decision may come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Stored bits in all, scales included.
    pub bits: u64,
    /// Predicted loss, in any unit that adds up; finite.
    pub loss: f64,
}

/// A choice for each decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Index of the choice, by decision.
    pub picks: Vec<usize>,
    /// Bits of all picks.
    pub bits: u64,
    /// Loss of all picks.
    pub loss: f64,
    /// No allocation within the budget has a loss smaller than this one's by more than this; 0 where it is proven the least.
    pub gap: f64,
}

/// Why there is no allocation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    #[error(
        "budget {budget_bits} bits is below the {least_bits} bits of the smallest choices; raise it, or allow fewer bits a weight"
    )]
    TooSmall { budget_bits: u64, least_bits: u64 },
    #[error("decision {decision} has nothing to choose from; give each at least one choice")]
    NoChoice { decision: usize },
    #[error("choice {choice} of decision {decision} has loss {loss}; a loss must be finite")]
    Loss { decision: usize, choice: usize, loss: f64 },
}

impl BudgetError {
    pub fn fault(&self) -> Fault {
        match self {
            BudgetError::TooSmall { .. } => Fault::BadInput,
            BudgetError::NoChoice { .. } | BudgetError::Loss { .. } => Fault::Failed,
        }
    }
}

/// The choices of least summed loss within `budget_bits`; `decisions` hold weights that are chosen together.
///
/// Exact, with [`Allocation::gap`] 0, unless more than 16384 partial allocations may still win at a time; then the gap is proven.
pub fn allocate(decisions: &[Vec<Choice>], budget_bits: u64) -> Result<Allocation, BudgetError> {
    allocate_following(decisions, budget_bits, WIDTH)
}

/// [`allocate`] with at most `width` partial allocations at a time.
fn allocate_following(decisions: &[Vec<Choice>], budget_bits: u64, width: usize) -> Result<Allocation, BudgetError> {
    check(decisions, budget_bits)?;
    let greedy = Greedy::run(decisions, budget_bits);
    let search = Search::prepare(decisions, budget_bits, &greedy);
    let (picks, gap) = search.run(greedy.picks, width);
    let chosen = || picks.iter().zip(decisions).map(|(&pick, choices)| choices[pick]);
    let (bits, loss) = (chosen().map(|choice| choice.bits).sum(), chosen().map(|choice| choice.loss).sum());
    Ok(Allocation { picks, bits, loss, gap })
}

fn check(decisions: &[Vec<Choice>], budget_bits: u64) -> Result<(), BudgetError> {
    let mut least_bits = 0;
    for (decision, choices) in decisions.iter().enumerate() {
        if let Some(choice) = choices.iter().position(|choice| !choice.loss.is_finite()) {
            return Err(BudgetError::Loss { decision, choice, loss: choices[choice].loss });
        }
        least_bits += choices.iter().map(|choice| choice.bits).min().ok_or(BudgetError::NoChoice { decision })?;
    }
    if least_bits > budget_bits { Err(BudgetError::TooSmall { budget_bits, least_bits }) } else { Ok(()) }
}

/// Indices of the choices on the lower convex hull of loss over bits, bits ascending, loss descending.
fn hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| choices[a].bits.cmp(&choices[b].bits).then(choices[a].loss.total_cmp(&choices[b].loss)));
    let mut hull: Vec<usize> = Vec::new();
    for next in order {
        if hull.last().is_some_and(|&last| choices[next].loss >= choices[last].loss) {
            continue;
        }
        while let [.., a, b] = hull[..]
            && saving(choices[b], choices[next]) >= saving(choices[a], choices[b])
        {
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

/// Loss saved for each bit spent.
fn saving(from: Choice, to: Choice) -> f64 {
    (from.loss - to.loss) / (to.bits - from.bits) as f64
}

/// The smallest choices, bettered where a bit saves most for as long as the budget lasts.
struct Greedy {
    picks: Vec<usize>,
    /// λ: what a bit saved where the budget first ran out; 0 where it never did.
    price: f64,
}

impl Greedy {
    fn run(decisions: &[Vec<Choice>], budget_bits: u64) -> Self {
        let hulls: Vec<Vec<usize>> = decisions.iter().map(|choices| hull(choices)).collect();
        let mut picks: Vec<usize> = hulls.iter().map(|hull| hull[0]).collect();
        let mut left = budget_bits - picks.iter().zip(decisions).map(|(&pick, choices)| choices[pick].bits).sum::<u64>();
        let mut steps: Vec<(f64, usize, usize, usize)> = Vec::new();
        for (decision, (hull, choices)) in hulls.iter().zip(decisions).enumerate() {
            steps.extend(hull.windows(2).map(|pair| (saving(choices[pair[0]], choices[pair[1]]), decision, pair[0], pair[1])));
        }
        steps.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut price = None;
        for (saving, decision, from, to) in steps {
            let bits = decisions[decision][to].bits - decisions[decision][from].bits;
            // Where a step did not fit, those after it on the same hull start from where it would have led.
            if bits <= left && picks[decision] == from {
                left -= bits;
                picks[decision] = to;
            } else {
                price.get_or_insert(saving);
            }
        }
        Greedy { picks, price: price.unwrap_or(0.0) }
    }
}

/// A choice that may be part of a better allocation.
#[derive(Clone, Copy)]
struct Candidate {
    choice: usize,
    bits: u64,
    /// `loss + λ·bits` over the least of its decision.
    excess: f64,
}

/// A choice for each of the first few open decisions.
#[derive(Clone, Copy)]
struct State {
    bits: u64,
    excess: f64,
    /// Index among the states one decision before.
    parent: u32,
    /// Index among the candidates of its decision.
    candidate: u32,
}

/// What is left to decide: an allocation's loss is `bound + Σ excess + λ·(bits left over)`.
struct Search {
    price: f64,
    budget_bits: u64,
    /// Bits of the decisions with one candidate.
    settled_bits: u64,
    settled: Vec<(usize, usize)>,
    /// Decisions with more, and their candidates, the cheapest by λ first.
    open: Vec<(usize, Vec<Candidate>)>,
    /// Loss of the greedy allocation over the bound.
    greedy_excess: f64,
}

impl Search {
    fn prepare(decisions: &[Vec<Choice>], budget_bits: u64, greedy: &Greedy) -> Self {
        let price = greedy.price;
        let mut candidates: Vec<Vec<Candidate>> = decisions.iter().map(|choices| by_price(choices, price)).collect();
        let excess_of = |(&pick, candidates): (&usize, &Vec<Candidate>)| {
            candidates.iter().find(|candidate| candidate.choice == pick).map_or((0, 0.0), |c| (c.bits, c.excess))
        };
        let (bits, excess) = greedy.picks.iter().zip(&candidates).map(excess_of).fold((0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        let greedy_excess = excess + price * (budget_bits - bits) as f64;
        let mut search = Search { price, budget_bits, settled_bits: 0, settled: Vec::new(), open: Vec::new(), greedy_excess };
        for (decision, candidates) in candidates.iter_mut().enumerate() {
            // Alone worse than the greedy allocation: never part of a better one.
            candidates.retain(|candidate| candidate.excess <= greedy_excess);
            if let [only] = candidates[..] {
                search.settled_bits += only.bits;
                search.settled.push((decision, only.choice));
            } else {
                search.open.push((decision, std::mem::take(candidates)));
            }
        }
        search.open.sort_by(|a, b| a.1[1].excess.total_cmp(&b.1[1].excess));
        search
    }

    /// The best picks, and how far below them the least loss may be.
    fn run(&self, greedy: Vec<usize>, width: usize) -> (Vec<usize>, f64) {
        let mut best = Best { excess: self.greedy_excess, found: None };
        let mut given_up = f64::INFINITY;
        let mut layers = vec![vec![State { bits: self.settled_bits, excess: 0.0, parent: 0, candidate: 0 }]];
        let mut rest = Rest::of(&self.open);
        self.complete(&layers[0], 0, &rest, &mut best);
        for (depth, (_, candidates)) in self.open.iter().enumerate() {
            rest.without(candidates);
            let mut states = self.expand(&layers[depth], candidates, &rest, best.excess);
            if states.len() > width {
                states.select_nth_unstable_by(width, |a, b| a.excess.total_cmp(&b.excess));
                given_up = given_up.min(states[width].excess);
                states.truncate(width);
            }
            self.complete(&states, depth + 1, &rest, &mut best);
            layers.push(states);
        }
        (self.picks(&layers, &best, greedy), (best.excess - given_up).max(0.0))
    }

    /// All that may follow `states`, without those that cost more bits and more loss than another.
    fn expand(&self, states: &[State], candidates: &[Candidate], rest: &Rest, best: f64) -> Vec<State> {
        let mut next: Vec<State> = Vec::with_capacity(states.len() * candidates.len());
        for (parent, state) in states.iter().enumerate() {
            for (index, candidate) in candidates.iter().enumerate() {
                let (bits, excess) = (state.bits + candidate.bits, state.excess + candidate.excess);
                let left_over = self.budget_bits.saturating_sub(bits + rest.most) as f64;
                if bits + rest.least <= self.budget_bits && excess + self.price * left_over < best {
                    next.push(State { bits, excess, parent: parent as u32, candidate: index as u32 });
                }
            }
        }
        let loss = |state: &State| state.excess - self.price * state.bits as f64;
        next.sort_unstable_by(|a, b| a.bits.cmp(&b.bits).then(a.excess.total_cmp(&b.excess)));
        let mut least = f64::INFINITY;
        next.retain(|state| {
            loss(state) < least && {
                least = loss(state);
                true
            }
        });
        next
    }

    /// Every state is an allocation once the open decisions after it take what λ says.
    fn complete(&self, states: &[State], depth: usize, rest: &Rest, best: &mut Best) {
        for (index, state) in states.iter().enumerate() {
            let bits = state.bits + rest.by_price;
            if bits <= self.budget_bits {
                let excess = state.excess + self.price * (self.budget_bits - bits) as f64;
                if excess < best.excess {
                    *best = Best { excess, found: Some((depth, index)) };
                }
            }
        }
    }

    fn picks(&self, layers: &[Vec<State>], best: &Best, mut picks: Vec<usize>) -> Vec<usize> {
        let Some((depth, mut index)) = best.found else { return picks };
        for &(decision, choice) in &self.settled {
            picks[decision] = choice;
        }
        for (decision, candidates) in &self.open[depth..] {
            picks[*decision] = candidates[0].choice;
        }
        for (layer, (decision, candidates)) in self.open[..depth].iter().enumerate().rev() {
            let state = layers[layer + 1][index];
            picks[*decision] = candidates[state.candidate as usize].choice;
            index = state.parent as usize;
        }
        picks
    }
}

/// The best allocation so far: its loss over the bound, and the depth and index of its state; none for the greedy one.
struct Best {
    excess: f64,
    found: Option<(usize, usize)>,
}

/// Bits of the open decisions that are still to come.
struct Rest {
    least: u64,
    most: u64,
    by_price: u64,
}

impl Rest {
    fn of(open: &[(usize, Vec<Candidate>)]) -> Self {
        open.iter().map(|(_, candidates)| range(candidates)).fold(Rest { least: 0, most: 0, by_price: 0 }, |sum, range| Rest {
            least: sum.least + range.least,
            most: sum.most + range.most,
            by_price: sum.by_price + range.by_price,
        })
    }

    fn without(&mut self, candidates: &[Candidate]) {
        let range = range(candidates);
        (self.least, self.most, self.by_price) =
            (self.least - range.least, self.most - range.most, self.by_price - range.by_price);
    }
}

fn range(candidates: &[Candidate]) -> Rest {
    let bits = || candidates.iter().map(|candidate| candidate.bits);
    Rest { least: bits().min().unwrap_or(0), most: bits().max().unwrap_or(0), by_price: candidates[0].bits }
}

/// Choices as λ orders them, the smaller of equals first.
fn by_price(choices: &[Choice], price: f64) -> Vec<Candidate> {
    let total = |choice: &Choice| choice.loss + price * choice.bits as f64;
    let least = choices.iter().map(total).fold(f64::INFINITY, f64::min);
    let candidate =
        |(index, choice): (usize, &Choice)| Candidate { choice: index, bits: choice.bits, excess: total(choice) - least };
    let mut candidates: Vec<Candidate> = choices.iter().enumerate().map(candidate).collect();
    candidates.sort_by(|a, b| a.excess.total_cmp(&b.excess).then(a.bits.cmp(&b.bits)));
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choices(pairs: &[(u64, f64)]) -> Vec<Choice> {
        pairs.iter().map(|&(bits, loss)| Choice { bits, loss }).collect()
    }

    #[test]
    fn the_last_bits_go_where_they_save_most() {
        let decisions = [choices(&[(2, 9.0), (4, 4.0), (8, 0.0)]), choices(&[(2, 10.0), (4, 1.0), (8, 0.5)])];
        let picked = |budget| allocate(&decisions, budget).map(|a| (a.picks, a.bits, a.loss, a.gap));
        assert_eq!(picked(4), Ok((vec![0, 0], 4, 19.0, 0.0)));
        assert_eq!(picked(7), Ok((vec![0, 1], 6, 10.0, 0.0)));
        assert_eq!(picked(11), Ok((vec![1, 1], 8, 5.0, 0.0)));
        assert_eq!(picked(12), Ok((vec![2, 1], 12, 1.0, 0.0)));
        assert_eq!(picked(1000), Ok((vec![2, 2], 16, 0.5, 0.0)));
    }

    #[test]
    fn greed_that_blocks_a_better_pair_is_undone() {
        // By the bit, 6 for 5 beats 5 for 5 twice; within 10 bits the two together win.
        let decisions = [choices(&[(0, 7.0), (6, 0.0)]), choices(&[(0, 5.0), (5, 0.0)]), choices(&[(0, 5.0), (5, 0.0)])];
        assert_eq!(allocate(&decisions, 10).expect("it fits").picks, [0, 1, 1]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let decisions = [choices(&[(3, 1.0), (2, 5.0)]), choices(&[(4, 1.0)])];
        let error = allocate(&decisions, 5).expect_err("6 is the least");
        assert_eq!(error, BudgetError::TooSmall { budget_bits: 5, least_bits: 6 });
        assert!(error.to_string().contains("below the 6 bits"));
        assert_eq!(allocate(&[vec![]], 5), Err(BudgetError::NoChoice { decision: 0 }));
        let error = allocate(&[choices(&[(1, 1.0), (2, f64::INFINITY)])], 5).expect_err("infinite");
        assert_eq!(error, BudgetError::Loss { decision: 0, choice: 1, loss: f64::INFINITY });
    }

    #[test]
    fn nothing_to_decide_costs_nothing() {
        assert_eq!(allocate(&[], 0), Ok(Allocation { picks: vec![], bits: 0, loss: 0.0, gap: 0.0 }));
    }

    fn by_trying_everything(decisions: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((first, others)) = decisions.split_first() else { return Some(0.0) };
        let with = |choice: &Choice| Some(choice.loss + by_trying_everything(others, budget.checked_sub(choice.bits)?)?);
        first.iter().filter_map(with).min_by(f64::total_cmp)
    }

    /// Ten layers or a hundred of Llama's four shapes, twenty choices each: losses fall fourfold a bit, times a sensitivity.
    fn model(seed: u64, decisions: usize) -> Vec<Vec<Choice>> {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        let shapes = [4096 * 6144, 4096 * 4096, 4096 * 28672, 14336 * 4096];
        (0..decisions)
            .map(|decision| {
                let (weights, sensitivity) = (shapes[decision % 4], (4.0 * random()).exp());
                let widths = [2.125, 2.25, 2.5, 3.125, 3.25, 3.5, 4.125, 4.25, 4.5, 5.125, 5.25, 6.125, 6.25, 8.125, 8.25, 16.0];
                let widths = widths.into_iter().chain((0..4).map(|_| 2.0 + 6.0 * random()));
                widths
                    .collect::<Vec<f64>>()
                    .into_iter()
                    .map(|bits| Choice {
                        bits: (bits * weights as f64) as u64,
                        loss: sensitivity * 4f64.powf(-bits) * (0.7 + 0.6 * random()),
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn a_whole_model_is_solved_or_the_gap_is_small() {
        for seed in 0..6 {
            let decisions = model(seed, 300);
            let weights: u64 = decisions.iter().map(|choices| choices[15].bits / 16).sum();
            for tenths in [25, 32, 42, 60] {
                let budget = weights * tenths / 10;
                let allocation = allocate(&decisions, budget).expect("above the smallest");
                assert!(allocation.bits <= budget);
                assert!(allocation.gap <= 1e-6 * allocation.loss, "{} of {}", allocation.gap, allocation.loss);
            }
        }
    }

    fn any_decisions() -> impl Strategy<Value = Vec<Vec<Choice>>> {
        let choice = (0u64..12, 0u32..40).prop_map(|(bits, loss)| Choice { bits, loss: f64::from(loss) * 0.37 });
        prop::collection::vec(prop::collection::vec(choice, 1..6), 0..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn the_gap_holds_where_the_search_is_cut_short(decisions in any_decisions(), budget in 0u64..60) {
            if let Some(least) = by_trying_everything(&decisions, budget) {
                let allocation = allocate_following(&decisions, budget, 1).expect("one exists");
                prop_assert!(allocation.bits <= budget);
                let bound = allocation.loss - allocation.gap;
                prop_assert!(least <= allocation.loss + 1e-9 && bound <= least + 1e-9, "{allocation:?} {least}");
            }
        }

        #[test]
        fn no_allocation_is_better(decisions in any_decisions(), budget in 0u64..60) {
            match (allocate(&decisions, budget), by_trying_everything(&decisions, budget)) {
                (Ok(allocation), Some(least)) => {
                    prop_assert!((allocation.loss - least).abs() < 1e-9, "{} {least}", allocation.loss);
                    prop_assert!(allocation.bits <= budget);
                    prop_assert!(allocation.gap < 1e-9);
                }
                (Err(BudgetError::TooSmall { least_bits, .. }), None) => prop_assert!(least_bits > budget),
                (found, tried) => prop_assert!(false, "{found:?} {tried:?}"),
            }
        }
    }
}
