//! Experts, whose pieces come as a router says.

use super::*;

/// Four layers, each a matrix for all tokens and 12 experts of three matrices, of which a token takes 3.
fn with_experts() -> Case {
    let mut case = case();
    let mut at = 0;
    let mut tensor = |rows: u32, cols: u32, format_id: u32| {
        let t = TensorRef { offset: at, rows, cols, format_id, part: 0 };
        at = (at + t.bytes()).next_multiple_of(32);
        t
    };
    case.visits.clear();
    for _ in 0..4 {
        case.visits.push(Visit { tensor: tensor(100, 256, 8), access: Access::Whole });
        for (rows, cols, format) in [(64, 256, 2), (64, 256, 2), (200, 64, 8)] {
            let access = Access::Experts { count: 12, used: 3 };
            case.visits.push(Visit { tensor: tensor(12 * rows, cols, format), access });
        }
    }
    let bytes: Vec<u8> = (0..at + 77).map(|i| ((i * i) >> 7) as u8).collect();
    case.fake = Fake { len: Arc::new((bytes.len() as u64).into()), bytes: Arc::new(bytes), ..Fake::default() };
    case
}

impl Case {
    /// A pass whose routers choose what `choose(layer)` says. `told`: whether the source is told of it.
    fn routed(
        &self,
        weights: &mut Residency,
        told: bool,
        choose: &mut dyn FnMut(usize) -> Vec<u32>,
    ) -> Result<u64, WeightsError> {
        weights.begin();
        let mut compared = 0;
        for (layer, v) in self.visits.chunks_exact(4).enumerate() {
            compared += self.compare(weights, &v[0].tensor, 0..v[0].tensor.rows)?;
            let (chosen, matrices) = (choose(layer), [v[1].tensor, v[2].tensor, v[3].tensor]);
            if told {
                weights.expect(&Chosen { matrices, count: 12, chosen: &chosen });
            }
            for e in chosen {
                for t in &matrices {
                    let rows = t.rows / 12;
                    let part = t.slice(e * rows..(e + 1) * rows);
                    // In two steps, as a pass that is asked whether to stop.
                    compared += self.compare(weights, &part, 0..rows / 2)?;
                    compared += self.compare(weights, &part, rows / 2..rows)?;
                }
            }
        }
        Ok(compared)
    }
}

/// Choices of which a few are frequent.
fn choices(seed: u64) -> impl FnMut(usize) -> Vec<u32> {
    let mut state = seed;
    move |_| {
        let mut chosen = std::collections::BTreeSet::new();
        while chosen.len() < 3 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let r = (state >> 33) % 144;
            chosen.insert(if state >> 63 == 0 { r % 4 } else { r % 12 } as u32);
        }
        chosen.into_iter().collect()
    }
}

#[test]
fn experts_are_the_same_bytes_under_every_budget() {
    let case = with_experts();
    let minimum = case.minimum();
    let whole: u64 = case.visits.iter().map(|v| v.tensor.bytes()).sum();
    let mut before = u64::MAX;
    for budget in (minimum..3 * whole + minimum).step_by(170_001) {
        let plan = case.plan(budget);
        assert!(plan.total_bytes <= budget, "{} > {budget}", plan.total_bytes);
        assert!(plan.streamed_bytes <= before, "more memory, more reading");
        before = plan.streamed_bytes;
        let (mut weights, mut choose) = (case.open(budget), choices(budget));
        for pass in 0..6 {
            case.routed(&mut weights, pass % 3 != 2, &mut choose).unwrap();
        }
    }
    assert_eq!(before, 0);
}

#[test]
fn experts_that_were_not_chosen_are_not_read_and_frequent_ones_stay() {
    let case = with_experts();
    let plan = case.plan(case.minimum() + 1_500_000);
    let (pieces, slots) = (4 * 12 * 3, plan.experts.slots as usize);
    assert!((pieces / 4..3 * pieces / 4).contains(&slots), "{slots} of {pieces}");
    let (mut weights, mut choose) = (case.open(case.minimum() + 1_500_000), choices(1));
    for _ in 0..20 {
        case.routed(&mut weights, true, &mut choose).unwrap();
    }
    let warm = weights.figures();
    for _ in 0..200 {
        case.routed(&mut weights, true, &mut choose).unwrap();
    }
    let (chosen, kept) = (weights.figures().chosen - warm.chosen, weights.figures().kept - warm.kept);
    let (share, rate) = (slots as f64 / pieces as f64, kept as f64 / chosen as f64);
    println!("{slots} of {pieces} pieces fit; {rate:.2} of those chosen were there");
    assert!(rate > share + 0.1, "{rate:.2} with room for {share:.2}");
    // Only misses are read.
    assert_eq!(weights.figures().reads - warm.reads, chosen - kept);
    // One that fits nowhere else is read each time, and alone.
    let reads = weights.figures().reads;
    case.routed(&mut weights, true, &mut |_| vec![0]).unwrap();
    case.routed(&mut weights, true, &mut |_| vec![0]).unwrap();
    assert!(weights.figures().reads - reads <= 4 * 3);
}

#[test]
fn an_error_of_an_expert_is_told_and_the_next_pass_works() {
    let case = with_experts();
    for budget in [case.minimum(), case.minimum() + 300_000] {
        let (mut weights, mut choose) = (case.open(budget), choices(7));
        for round in 0..10 {
            case.routed(&mut weights, true, &mut choose).unwrap();
            // Fails from some layer on.
            let error = case.routed(&mut weights, true, &mut |layer| {
                if layer == round % 4 {
                    case.fake.errno.store(5, SeqCst);
                }
                vec![round as u32, 10, 11]
            });
            case.fake.errno.store(0, SeqCst);
            if let Err(e) = error {
                assert!(matches!(e, WeightsError::Storage { errno: 5, .. }), "{e}");
            }
        }
        case.routed(&mut weights, true, &mut choose).unwrap();
    }
}
