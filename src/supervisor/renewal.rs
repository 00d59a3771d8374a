//! A reload: a new generation of workers takes the place of the old one.
//!
//! Beside the walk of a request: no socket is touched, and while the new generation imports, the
//! old one serves on. `places.rs` starts the successors and hands places over; this file begins,
//! ends and gives up.
//!
//! Invariants: until a worker of the new generation was READY nothing changed for the old one, and
//! giving up leaves it as it was. Whoever asked is answered once: when the last worker of an older
//! generation is gone, or when the reload was given up.

use std::time::{Duration, Instant};

use super::fault::Fault;
use super::generations::Generations;
use super::loops::Loops;
use super::places::Place;
use super::pool::{LAST_WORDS, POOL, Pool};
use super::recycling::Why;
use super::worker::{Phase, Worker};
use crate::config::ReloadStrategy;
use crate::control::Reply;
use crate::event_loop::Command;

/// Deaths of new workers after the first of them was READY, at which a rolling reload is given up:
/// the release can serve, yet something kills it. By taste.
const DEATHS_MAX: u32 = 3;

/// A reload under way.
#[derive(Debug)]
pub struct Renewal {
    /// What the new workers belong to.
    pub generation: u32,
    /// How they replace the old ones.
    pub strategy: ReloadStrategy,
    /// Who is to be told how it went.
    pub askers: Vec<Reply>,
    began: Instant,
    deaths: u32,
}

impl Pool<'_> {
    /// Begins a reload. One that is under way is given up for it: the newest release is what is
    /// wanted, and whoever asked for the other is answered with this one. Returns the generation
    /// that begins, if one does.
    pub fn reload(&mut self, because: &str, asker: Option<Reply>, now: Instant) -> Option<u32> {
        let mut askers: Vec<Reply> = asker.into_iter().collect();
        if !self.was_ever_ready() {
            tracing::warn!("{because}: no reload, the first worker is not ready yet");
            let (what, hint) = ("the server is still starting", "ask again once it serves");
            askers.into_iter().for_each(|asker| asker.fail(what, hint, ""));
            return None;
        }
        if let Some(before) = self.renewal.take() {
            tracing::info!("the reload under way is given up for a newer one");
            askers.extend(before.askers);
        }
        // Also those that were to follow worn out workers: they may have imported the old release.
        self.withdraw_successors(now);
        let mut strategy = self.recipe.config.lifecycle.reload_strategy;
        if self.places.is_empty() {
            // After WINCH: a reload brings them back. Requests wait for the first.
            strategy = ReloadStrategy::Rolling;
            self.places = vec![Place::default(); self.concurrency.workers as usize];
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        let count = self.places.len();
        tracing::info!("reload ({because}): generation {generation}, {count} workers, {strategy}");
        for place in &mut self.places {
            place.replace = Some(Why::Reload);
            place.not_before = None;
        }
        self.renewal = Some(Renewal { generation, strategy, askers, began: now, deaths: 0 });
        Some(generation)
    }

    /// A successor died before it took its place.
    pub(super) fn successor_died(
        &mut self,
        at: usize,
        worker: &Worker,
        fault: Fault,
        wait: Duration,
    ) {
        let now = Instant::now();
        let place = &mut self.places[at];
        place.successor = None;
        place.not_before = Some(now + wait);
        let Some(renewal) = &mut self.renewal else {
            tracing::error!("a replacement failed: {fault}; the next starts in {wait:?}");
            if place.holder.is_none() {
                // Whom it was to replace died meanwhile.
                (place.replace, place.due) = (None, place.not_before.take());
            }
            return;
        };
        renewal.deaths += 1;
        if renewal.generation > self.generations.ceiling || renewal.deaths >= DEATHS_MAX {
            let text = match &worker.phase {
                Phase::Failing(failed) => failed.text.as_str(),
                _ => "",
            };
            self.give_up_reload(&fault, text, now);
        }
    }

    /// Stops the new generation where it has not taken a place; the old one serves on.
    /// `text` is what stands behind it.
    pub(super) fn give_up_reload(&mut self, fault: &Fault, text: &str, now: Instant) {
        let Some(renewal) = self.renewal.take() else { return };
        self.withdraw_successors(now);
        let replaced = self.held_by(renewal.generation);
        let state = match replaced {
            0 if self.ready_workers() == 0 => "no worker serves".to_owned(),
            0 => "the old workers serve on".to_owned(),
            some => format!("{some} of {} workers are of the new release", self.places.len()),
        };
        tracing::error!("reload failed: {fault}; {state}");
        if !fault.hint.is_empty() {
            tracing::error!("hint: {}", fault.hint);
        }
        let message = format!("reload failed: {fault}; {state}");
        renewal.askers.into_iter().for_each(|asker| asker.fail(&message, &fault.hint, text));
    }

    /// Successors that have not taken their places are killed; nobody is to be replaced but who is
    /// worn out, since that is said once only.
    pub(super) fn withdraw_successors(&mut self, now: Instant) {
        let mut killed = Vec::new();
        for place in &mut self.places {
            killed.extend(place.successor.take());
            let holder = place.holder.and_then(|holder| self.workers.get(&holder));
            *place = Place {
                holder: place.holder,
                replace: holder.and_then(|worker| worker.worn_out),
                // Who died meanwhile was to be followed by its successor.
                due: place.due.or_else(|| place.holder.is_none().then_some(now)),
                ..Place::default()
            };
        }
        for number in killed {
            if let Some(worker) = self.workers.get_mut(&number) {
                worker.leaves_until = Some(now + LAST_WORDS);
                worker.kill();
            }
        }
    }

    /// Ends a reload when nobody of an older generation is left.
    pub(super) fn finish_renewal(&mut self) {
        let Some(renewal) = &self.renewal else { return };
        let generation = renewal.generation;
        // New ones that wear out meanwhile are nothing to wait for: under load there is always one.
        let is_replaced = self.places.iter().all(|place| place.replace != Some(Why::Reload));
        let any_old = self.workers.values().any(|worker| worker.generation < generation);
        if !is_replaced || any_old {
            return;
        }
        let Some(renewal) = self.renewal.take() else { return };
        let took = renewal.began.elapsed();
        let text = format!("generation {generation} serves, after {took:.1?}");
        tracing::info!("reloaded: {text}");
        renewal.askers.into_iter().for_each(|asker| asker.succeed(text.clone()));
    }

    fn held_by(&self, generation: u32) -> usize {
        let holders = self.places.iter().filter_map(|place| place.holder);
        holders
            .filter_map(|holder| self.workers.get(&holder))
            .filter(|worker| worker.generation == generation)
            .count()
    }

    /// Tells every loop which generations pull.
    ///
    /// # Errors
    /// A loop takes no commands.
    pub(super) fn set_generations(
        &mut self,
        floor: u32,
        ceiling: u32,
        loops: Option<&Loops>,
    ) -> Result<(), Fault> {
        self.generations = Generations { floor, ceiling };
        loops.map_or(Ok(()), |loops| {
            loops.command(|_| Command::Generations { pool: POOL, floor, ceiling })
        })
    }
}
