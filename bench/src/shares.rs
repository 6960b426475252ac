//! Results as shares of the ceiling measured on the same machine. Pure.

use serde::Serialize;

use crate::ceiling::report::{CeilingReport, Probe};
use crate::machine::Machine;
use crate::rate::share;

/// One result beside the limit it is held against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Share {
    pub(crate) of: String,
    pub(crate) measured: f64,
    pub(crate) ceiling: f64,
    pub(crate) unit: &'static str,
    /// `measured / ceiling`.
    pub(crate) ratio: f64,
}

/// What a run is compared by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Compared {
    /// Durable or weaker produce throughput.
    Produce { mb_per_second: f64 },
    /// Acknowledgement latency with one message in flight.
    OneInFlight { p50_us: f64, p99_us: f64 },
    /// Fetch throughput; whether the bytes were cached is not known to a client.
    Fetch { mb_per_second: f64 },
    /// Work that no ceiling was measured for.
    Nothing,
}

/// What has to be measured for every share there is.
pub(crate) const HELD_AGAINST: [Probe; 6] = [
    Probe::DiskWrite1Mib,
    Probe::DiskRead1Mib,
    Probe::Loopback,
    Probe::Sink1Mib,
    Probe::BlockingServerFlush,
    Probe::BlockingServerDsync,
];

/// The shares that apply to a run; probes that were not measured are left out.
pub(crate) fn shares(compared: Compared, ceiling: &CeilingReport) -> Vec<Share> {
    let throughput = |measured: f64, probe: Probe| {
        let limit = ceiling.figures(probe)?.mb_per_second;
        make(probe.title().to_owned(), measured, limit, "MB/s")
    };
    match compared {
        Compared::Produce { mb_per_second } => [
            lower(mb_per_second, ceiling),
            throughput(mb_per_second, Probe::DiskWrite1Mib),
            throughput(mb_per_second, Probe::Loopback),
            throughput(mb_per_second, Probe::Sink1Mib),
        ]
        .into_iter()
        .flatten()
        .collect(),
        Compared::Fetch { mb_per_second } => [Probe::Loopback, Probe::DiskRead1Mib]
            .into_iter()
            .filter_map(|probe| throughput(mb_per_second, probe))
            .collect(),
        Compared::Nothing => Vec::new(),
        Compared::OneInFlight { p50_us, p99_us } => {
            [Probe::BlockingServerFlush, Probe::BlockingServerDsync]
                .into_iter()
                .filter_map(|probe| Some((probe, ceiling.figures(probe)?)))
                .flat_map(|(probe, limit)| {
                    let title = probe.title();
                    [
                        make(format!("p50 of {title}"), p50_us, limit.p50_us, "us"),
                        make(format!("p99 of {title}"), p99_us, limit.p99_us, "us"),
                    ]
                })
                .flatten()
                .collect()
        }
    }
}

/// Why the comparison does not hold, if the ceiling was measured elsewhere.
pub(crate) fn mismatch(here: &Machine, ceiling: &Machine) -> Option<String> {
    let same = here.cpu_model == ceiling.cpu_model
        && here.cores == ceiling.cores
        && here.kernel == ceiling.kernel;
    (!same).then(|| {
        format!(
            "the ceiling was measured on another machine: {}",
            ceiling.line()
        )
    })
}

fn lower(mb_per_second: f64, ceiling: &CeilingReport) -> Option<Share> {
    let lower = ceiling.produce?.mb_per_second;
    make("the lower ceiling".to_owned(), mb_per_second, lower, "MB/s")
}

fn make(of: String, measured: f64, ceiling: f64, unit: &'static str) -> Option<Share> {
    share(measured, ceiling).map(|ratio| Share {
        of,
        measured,
        ceiling,
        unit,
        ratio,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceiling::report::{Measurement, RunFigures};

    fn ceiling() -> CeilingReport {
        let measured = |probe, mb_per_second, p50_us| Measurement {
            probe,
            runs: vec![RunFigures {
                mb_per_second,
                p50_us,
                p99_us: 2.0 * p50_us,
                ..RunFigures::default()
            }],
        };
        let measurements = vec![
            measured(Probe::DiskWrite1Mib, 2500.0, 0.0),
            measured(Probe::DiskRead1Mib, 3000.0, 0.0),
            measured(Probe::Loopback, 4000.0, 0.0),
            measured(Probe::BlockingServerFlush, 4.0, 250.0),
        ];
        CeilingReport::new(String::new(), Machine::default(), 0, measurements)
    }

    #[test]
    fn produce_is_held_against_the_lower_ceiling_first() {
        let shares = shares(
            Compared::Produce {
                mb_per_second: 2000.0,
            },
            &ceiling(),
        );
        assert_eq!(shares.len(), 3);
        assert_eq!(shares[0].of, "the lower ceiling");
        assert!((shares[0].ratio - 0.8).abs() < 1e-9);
        assert!((shares[2].ratio - 0.5).abs() < 1e-9);
    }

    #[test]
    fn fetch_is_held_against_loopback_and_device() {
        let shares = shares(
            Compared::Fetch {
                mb_per_second: 3000.0,
            },
            &ceiling(),
        );
        let ratios: Vec<f64> = shares.iter().map(|share| share.ratio).collect();
        assert!((ratios[0] - 0.75).abs() < 1e-9 && (ratios[1] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_in_flight_is_held_against_the_blocking_servers_that_were_measured() {
        let compared = Compared::OneInFlight {
            p50_us: 275.0,
            p99_us: 600.0,
        };
        let shares = shares(compared, &ceiling());
        assert_eq!(shares.len(), 2);
        assert!((shares[0].ratio - 1.1).abs() < 1e-9);
        assert!((shares[1].ratio - 1.2).abs() < 1e-9);
    }

    #[test]
    fn a_ceiling_from_elsewhere_is_pointed_out() {
        let here = Machine {
            cores: 2,
            ..Machine::default()
        };
        assert_eq!(mismatch(&here, &here), None);
        assert!(mismatch(&here, &Machine::default()).is_some());
    }
}
