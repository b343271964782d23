//! Medians and ratios of rounds. Pure; knows no server.

/// The value below which `part` of the samples lie; of no samples it is not a number.
pub(super) fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The middle of the samples.
pub(super) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    /// Messages per second.
    Higher,
    /// Time, memory.
    Lower,
}

/// How many times better the first server was, round by round: what disturbs the machine for a while disturbs both
/// runs of a round.
pub(super) fn ratios(better: Better, ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter()
        .zip(theirs)
        .map(|(ours, theirs)| match better {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_do_not_depend_on_the_order() {
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!((median(&samples), quantile(&samples, 0.0), quantile(&samples, 1.0)), (3.0, 1.0, 5.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_ratio_above_one_is_good_whatever_is_measured() {
        assert_eq!(ratios(Better::Higher, &[6.0, 9.0], &[2.0, 3.0]), [3.0, 3.0]);
        assert_eq!(ratios(Better::Lower, &[2.0], &[8.0]), [4.0]);
    }
}
