//! Whatever the interleaving: no probe is lost, none is out beside another, and what comes back from the past
//! changes nothing.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Deed {
    Admit,
    Start {
        which: usize,
    },
    End {
        which: usize,
        how: u8,
    },
    /// Something of an earlier generation is begun.
    StartOld {
        which: usize,
    },
    /// Or comes back.
    EndOld {
        which: usize,
        how: u8,
    },
    Tick {
        ticks: u32,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    let which = any::<usize>;
    prop_oneof![
        8 => Just(Deed::Admit),
        6 => which().prop_map(|which| Deed::Start { which }),
        6 => (which(), 0..6_u8).prop_map(|(which, how)| Deed::End { which, how }),
        2 => which().prop_map(|which| Deed::StartOld { which }),
        3 => (which(), 0..6_u8).prop_map(|(which, how)| Deed::EndOld { which, how }),
        3 => prop_oneof![4 => 1..4_u32, 1 => 1..60_u32].prop_map(|ticks| Deed::Tick { ticks }),
    ]
}

/// Most calls end well; `None`: given up.
fn outcome(how: u8) -> Option<Outcome> {
    [
        Some(Outcome::Good),
        Some(Outcome::Good),
        Some(Outcome::Good),
        Some(Outcome::Bad),
        Some(Outcome::Ignored),
        None,
    ][usize::from(how)]
}

fn end(token: CallToken, how: u8) {
    match outcome(how) {
        Some(outcome) => token.finished(outcome),
        None => drop(token),
    }
}

struct Call {
    token: CallToken,
    started: bool,
}

/// What half open must be like, told from the probes alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Probes {
    out: bool,
    fast: u32,
    failed: bool,
}

impl Probes {
    fn wants_another(self) -> bool {
        !self.out && !self.failed && self.fast < 5
    }

    fn ended(&mut self, call: &Call, how: u8) {
        self.out = false;
        match outcome(how) {
            Some(Outcome::Good) if call.started => self.fast += 1,
            Some(Outcome::Bad) if call.started => self.failed = true,
            _ => {}
        }
    }
}

struct Trial {
    bench: Bench,
    scope: ScopeHandle,
    /// Of the current generation.
    calls: Vec<Call>,
    old: Vec<Call>,
    probes: Probes,
    /// When, from, to, why.
    changes: Vec<(Duration, Phase, Phase, Rule)>,
}

impl Trial {
    /// A breaker that waits for its first probe, with calls from before: some hang, some wait to be begun.
    fn new(from_before: &[bool]) -> Self {
        let mut bench = Bench::new(Bounds::default());
        let scope = bench.registry.add_operation("load", Settings::reads()).unwrap();
        bench.tick();
        let began = from_before.iter().chain(&[true]).map(|started| {
            let mut token = scope.admit(Role::Caller, 1).unwrap();
            if *started {
                token.started();
            }
            Call { token, started: *started }
        });
        let old = began.collect();
        bench.until(&scope, Phase::HalfOpen);
        bench.changes();
        Self { bench, scope, calls: Vec::new(), old, probes: Probes::default(), changes: Vec::new() }
    }

    fn admit(&mut self) -> Result<(), TestCaseError> {
        let admitted = self.scope.admit(Role::Background, 1);
        match self.scope.phase() {
            Phase::Closed => prop_assert!(admitted.as_ref().is_ok_and(|token| !token.is_probe())),
            Phase::Open => prop_assert_eq!(admitted.as_ref().unwrap_err().reason, Reason::Open),
            Phase::HalfOpen => {
                let probes = admitted.as_ref().is_ok_and(CallToken::is_probe);
                prop_assert_eq!(probes, self.probes.wants_another(), "{:?}", self.probes);
                self.probes.out |= probes;
            }
            Phase::Recovering => {}
        }
        self.calls.extend(admitted.map(|token| Call { token, started: false }));
        Ok(())
    }

    fn tick(&mut self, ticks: u32) -> Result<(), TestCaseError> {
        for _ in 0..ticks {
            let before = (self.scope.phase(), self.probes);
            self.bench.tick();
            for (_, from, to, rule) in self.bench.changes() {
                self.changes.push((self.bench.now, from, to, rule));
                if !matches!(rule, Rule::FullRate) {
                    self.old.append(&mut self.calls);
                    self.probes = Probes::default();
                }
            }
            if let (Phase::HalfOpen, probes) = before {
                let rule = (self.scope.phase() != Phase::HalfOpen).then(|| self.changes.last().unwrap().3);
                match probes {
                    Probes { failed: true, .. } => prop_assert_eq!(rule, Some(Rule::ProbeFailed)),
                    Probes { fast: 5, .. } => prop_assert_eq!(rule, Some(Rule::ProbesFast)),
                    Probes { out: true, .. } => {
                        prop_assert!(
                            matches!(rule, None | Some(Rule::ProbeSlow | Rule::ProbeExpired)),
                            "{rule:?}"
                        );
                    }
                    _ => prop_assert_eq!(rule, None),
                }
            }
        }
        Ok(())
    }

    fn does(&mut self, deed: Deed, with_the_past: bool) -> Result<(), TestCaseError> {
        match deed {
            Deed::Admit => self.admit()?,
            Deed::Start { which } if !self.calls.is_empty() => {
                let count = self.calls.len();
                let call = &mut self.calls[which % count];
                call.token.started();
                call.started = true;
            }
            Deed::End { which, how } if !self.calls.is_empty() => {
                let call = self.calls.swap_remove(which % self.calls.len());
                if call.token.is_probe() {
                    self.probes.ended(&call, how);
                }
                end(call.token, how);
            }
            Deed::StartOld { which } if with_the_past && !self.old.is_empty() => {
                let count = self.old.len();
                self.old[which % count].token.started();
            }
            Deed::EndOld { which, how } if with_the_past && !self.old.is_empty() => {
                let call = self.old.swap_remove(which % self.old.len());
                end(call.token, how);
            }
            Deed::Start { .. } | Deed::End { .. } | Deed::StartOld { .. } | Deed::EndOld { .. } => {}
            Deed::Tick { ticks } => self.tick(ticks)?,
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Half open asks for the next probe as soon as the last one has ended, however it has, and for none beside
    /// it; each tick decides by them alone.
    #[test]
    fn no_probe_is_lost(
        from_before in prop::collection::vec(any::<bool>(), 0..8),
        deeds in prop::collection::vec(deed(), 1..200),
    ) {
        let mut trial = Trial::new(&from_before);
        for deed in deeds {
            trial.does(deed, true)?;
        }
    }

    /// All that happens is the same, and at the same moments, whether calls of earlier generations come back
    /// or hang for ever.
    #[test]
    fn the_past_changes_nothing(
        from_before in prop::collection::vec(any::<bool>(), 0..8),
        deeds in prop::collection::vec(deed(), 1..200),
    ) {
        let mut trials = [Trial::new(&from_before), Trial::new(&from_before)];
        for deed in deeds {
            for (trial, with_the_past) in trials.iter_mut().zip([true, false]) {
                trial.does(deed, with_the_past)?;
            }
            prop_assert_eq!(&trials[0].changes, &trials[1].changes);
        }
    }
}
