use super::*;

fn tensor(offset: u64, rows: u32, cols: u32) -> TensorRef {
    TensorRef { offset, rows, cols, format_id: 8, part: 0 }
}

/// Four layers of a norm (F32) and three matrices (Q8_0), and a head that is also the embedding.
fn visits() -> Vec<Visit> {
    let mut all = Vec::new();
    let head = tensor(64, 4096, 1024);
    all.push(Visit { tensor: head, access: Access::Rows });
    let mut at = head.offset + head.bytes();
    for _ in 0..4 {
        let norm = TensorRef { offset: at, rows: 1, cols: 1024, format_id: 0, part: 0 };
        at += norm.bytes();
        all.push(Visit { tensor: norm, access: Access::Whole });
        for rows in [128, 2048, 1000] {
            let t = tensor(at, rows, 1024);
            at += t.bytes();
            all.push(Visit { tensor: t, access: Access::Whole });
        }
    }
    all.push(Visit { tensor: head, access: Access::Whole });
    all
}

fn whole_bytes(visits: &[Visit]) -> u64 {
    visits.iter().filter(|v| v.access == Access::Whole).map(|v| v.tensor.bytes()).sum()
}

#[test]
fn every_budget_is_kept_or_refused() {
    let visits = visits();
    let all = whole_bytes(&visits);
    let minimum = ResidencyPlan::new(&visits, 0).unwrap_err().minimum;
    assert!(minimum < all / 3, "{minimum} of {all}");
    let mut before = u64::MAX;
    for budget in (0..all + (4 << 20)).step_by(100_003).chain([minimum - 1, minimum]) {
        match ResidencyPlan::new(&visits, budget) {
            Err(e) => assert!(budget < minimum && e.minimum == minimum),
            Ok(p) => {
                assert!(budget >= minimum && p.total_bytes <= budget, "{} > {budget}", p.total_bytes);
                assert_eq!(p.resident_bytes + p.streamed_bytes, all);
                if budget > minimum {
                    assert!(p.streamed_bytes <= before.saturating_add(p.shape.piece), "more memory, more reading");
                    before = p.streamed_bytes;
                }
                let waste = budget.min(all + minimum) - p.total_bytes;
                assert!(waste < 3 * p.shape.piece, "{waste} bytes unused of {budget}");
            }
        }
    }
    // Each piece may be padded.
    assert_eq!(ResidencyPlan::new(&visits, all + all / 500 + minimum).unwrap().streamed_bytes, 0);
}

#[test]
fn pieces_cover_each_tensor_in_order() {
    let visits = visits();
    for budget in [4 << 20, 8 << 20, 1 << 30] {
        let plan = ResidencyPlan::new(&visits, budget).unwrap();
        let mut order = plan.order.iter();
        for v in visits.iter().filter(|v| v.access == Access::Whole) {
            let mut at = v.tensor.offset;
            while at < v.tensor.offset + v.tensor.bytes() {
                let p = plan.pieces[*order.next().unwrap() as usize];
                assert_eq!(p.offset, at);
                assert_eq!(p.bytes % v.tensor.row_bytes() as u64, 0);
                assert!(p.bytes + 2 * ALIGN <= plan.buffer_bytes);
                at += p.bytes;
            }
            assert_eq!(at, v.tensor.offset + v.tensor.bytes());
        }
        assert!(order.next().is_none());
        let mut resident: Vec<(u64, u64)> = plan
            .pieces
            .iter()
            .filter_map(|p| if let Place::Resident(at) = p.place { Some((at, p.bytes)) } else { None })
            .collect();
        resident.sort();
        assert!(resident.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
        assert!(resident.last().is_none_or(|r| r.0 + r.1 <= plan.arena_bytes));
    }
}

#[test]
fn reading_is_spread_over_the_pass() {
    let visits = visits();
    let all = whole_bytes(&visits);
    let plan = ResidencyPlan::new(&visits, all / 2 + (1 << 20)).unwrap();
    let share = plan.streamed_bytes as f64 / all as f64;
    let (mut read, mut passed) = (0.0, 0.0);
    for i in &plan.order {
        let p = plan.pieces[*i as usize];
        passed += p.bytes as f64;
        read += if p.place == Place::Streamed { p.bytes as f64 } else { 0.0 };
        let drift = (read - share * passed).abs();
        assert!(drift < 8.0 * plan.shape.piece as f64, "{drift} bytes away from an equal share");
    }
}

#[test]
fn odd_lists() {
    assert_eq!(ResidencyPlan::new(&[], 1 << 20).unwrap().streamed_bytes, 0);
    let absent = Visit { tensor: TensorRef::default(), access: Access::Whole };
    assert!(ResidencyPlan::new(&[absent], 1 << 20).unwrap().order.is_empty());
    // Visited twice: kept before what is visited once.
    let (a, b) = (tensor(0, 1000, 1024), tensor(2_000_000, 1000, 1024));
    let whole = |tensor| Visit { tensor, access: Access::Whole };
    let plan = ResidencyPlan::new(&[whole(a), whole(b), whole(b)], 3_000_000).unwrap();
    let kept = |offset| plan.pieces.iter().filter(move |p| p.offset >= offset).filter(|p| p.place != Place::Streamed);
    assert_eq!(kept(2_000_000).map(|p| p.bytes).sum::<u64>(), b.bytes());
    // One row longer than a piece.
    let long = TensorRef { offset: 0, rows: 3, cols: 1 << 20, format_id: 0, part: 0 };
    let plan = ResidencyPlan::new(&[whole(long)], 128 << 20).unwrap();
    assert!(plan.buffer_bytes > 4 << 20);
    // Sizes that no file has.
    let absurd = TensorRef { offset: 1 << 40, rows: u32::MAX, cols: 1 << 30, format_id: 8, part: 9 };
    assert!(
        ResidencyPlan::with_shape(&[whole(tensor(0, 1, 32))], 0, Shape { piece: 0, buffers: 0, readers: 0 }).is_err()
    );
    let _ = absurd;
}
