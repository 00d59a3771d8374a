//! The places of a pool: as many as workers are wanted, each with the worker that holds it and,
//! while it is replaced, the one that boots to succeed it.
//!
//! Beside the walk of a request. A replacement is READY before its predecessor is told to leave;
//! whoever leaves finishes what it holds. The same way serves reloads, recycling and workers that
//! hang.
//!
//! Invariants: a worker is the holder of one place, the successor of one, or leaving; nobody who
//! leaves is replaced again. At most one successor boots beside a holder at a time, except in a
//! reload whose strategy is `all`.

use std::time::Instant;

use super::events::Events;
use super::fault::{ExitCode, Fault};
use super::loops::Loops;
use super::pool::Pool;
use super::recycling::Why;
use super::worker::Phase;
use crate::config::ReloadStrategy;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The worker that serves here, or boots to.
    pub holder: Option<u32>,
    /// When a holder is to be started; `None`: there is one, or a successor is on its way.
    pub due: Option<Instant>,
    /// Why the holder is to be replaced.
    pub replace: Option<Why>,
    /// Who boots to replace it.
    pub successor: Option<u32>,
    /// No successor is started before: the last one failed.
    pub not_before: Option<Instant>,
}

impl Place {
    /// An empty place whose worker is to be started at `due`.
    pub fn due(due: Instant) -> Place {
        Place { due: Some(due), ..Place::default() }
    }
}

impl Pool<'_> {
    /// Starts a replacement for a worker that serves, soon: when that is READY the old one leaves.
    /// Whoever leaves already, or is to be replaced already, is left alone.
    pub fn replace(&mut self, number: u32, why: Why) {
        let pid = self.pid_of(number);
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.worn_out.get_or_insert(why);
        }
        let held = |place: &&mut Place| place.holder == Some(number);
        let Some(place) = self.places.iter_mut().find(held) else { return };
        if place.replace.is_none() {
            tracing::info!("worker {number} (pid {pid}) is to be replaced after {why}");
            place.replace = Some(why);
        }
    }

    /// Starts successors as far as the strategy allows.
    pub(super) fn start_successors(&mut self, now: Instant, events: &Events) {
        for at in self.by_age() {
            let may_start = self.places[at].not_before.is_none_or(|moment| moment <= now);
            if !may_start || !self.wants_successor(&self.places[at]) {
                continue;
            }
            let generation = match &self.renewal {
                Some(renewal) => renewal.generation,
                None => self.generations.ceiling,
            };
            match self.start(at, generation, events) {
                Ok(number) => self.places[at].successor = Some(number),
                Err(wait) => self.places[at].not_before = Some(now + wait),
            }
        }
    }

    /// When [`start_successors`](Pool::start_successors) has something to do that nothing else
    /// wakes for.
    pub(super) fn successors_due(&self) -> Option<Instant> {
        let waits = |place: &&Place| self.wants_successor(place);
        self.places.iter().filter(waits).filter_map(|place| place.not_before).min()
    }

    /// Places in the order in which they are to be replaced: empty ones, then the oldest worker's.
    /// In the order of their numbers, first places whose workers wear out again and again would
    /// keep the last ones from ever being replaced.
    fn by_age(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_by_key(|at| self.places[*at].holder);
        order
    }

    /// Whether a successor is to be started, as soon as the place's own wait is over.
    fn wants_successor(&self, place: &Place) -> bool {
        let at_once = match &self.renewal {
            Some(renewal) if renewal.strategy == ReloadStrategy::All => usize::MAX,
            _ => 1,
        };
        // Whoever follows a dead worker takes no memory that was not taken before.
        let is_both = |place: &&Place| place.successor.is_some() && place.holder.is_some();
        let has_room =
            place.holder.is_none() || self.places.iter().filter(is_both).count() < at_once;
        place.replace.is_some() && place.successor.is_none() && has_room
    }

    /// A successor is READY: its predecessor leaves, unless the whole generation is waited for.
    ///
    /// # Errors
    /// A loop takes no commands.
    pub(super) fn succeed(&mut self, number: u32, loops: Option<&Loops>) -> Result<(), Fault> {
        let is_its = |place: &Place| place.successor == Some(number);
        let Some(at) = self.places.iter().position(is_its) else { return Ok(()) };
        let generation = self.workers.get(&number).map_or(0, |worker| worker.generation);
        if generation <= self.generations.ceiling {
            self.hand_over(at);
            return self.settle(loops);
        }
        let is_all = self.renewal.as_ref().is_some_and(|it| it.strategy == ReloadStrategy::All);
        if !is_all {
            self.set_generations(self.generations.floor, generation, loops)?;
            self.hand_over(at);
        }
        self.settle(loops)
    }

    /// Hands all places over at once, if the strategy is that and every successor is READY.
    fn hand_over_all(&mut self, loops: Option<&Loops>) -> Result<(), Fault> {
        let Some(renewal) = &self.renewal else { return Ok(()) };
        let (strategy, generation) = (renewal.strategy, renewal.generation);
        let is_ready = |place: &Place| {
            let worker = place.successor.and_then(|successor| self.workers.get(&successor));
            worker.is_some_and(|worker| matches!(worker.phase, Phase::Ready(_)))
        };
        let is_time = strategy == ReloadStrategy::All
            && generation > self.generations.ceiling
            && !self.places.is_empty()
            && self.places.iter().all(is_ready);
        if !is_time {
            return Ok(());
        }
        // The new ones pull before the old ones stop: there is no moment without either.
        self.set_generations(self.generations.floor, generation, loops)?;
        (0..self.places.len()).for_each(|at| self.hand_over(at));
        Ok(())
    }

    /// The place is its successor's from now on; who held it finishes and leaves.
    fn hand_over(&mut self, at: usize) {
        let place = &mut self.places[at];
        let Some(successor) = place.successor.take() else { return };
        let why = place.replace.take();
        (place.due, place.not_before) = (None, None);
        let before = place.holder.replace(successor);
        let pid = self.pid_of(successor);
        match (before, why) {
            (Some(before), Some(why)) => {
                tracing::info!(
                    "worker {successor} (pid {pid}) replaces worker {before} after {why}"
                );
                self.leave(before);
            }
            _ => tracing::info!("worker {successor} (pid {pid}) takes an empty place"),
        }
    }

    /// Tells a worker to finish what it holds and to end; it is killed when that takes longer than
    /// `--graceful-timeout`.
    pub(super) fn leave(&mut self, number: u32) {
        let until = Instant::now() + self.recipe.config.graceful_timeout;
        let Some(worker) = self.workers.get_mut(&number) else { return };
        worker.leaves_until.get_or_insert(until);
        match worker.phase {
            Phase::Ready(_) => worker.stop(true),
            // It holds nothing yet.
            _ => worker.kill(),
        }
    }

    /// Goes on as far as it can be gone: called whenever a worker got READY or ended, and when
    /// places were added or taken away. Raises the floor to the oldest generation that still holds
    /// a place, and ends a reload whose old workers are gone.
    ///
    /// # Errors
    /// A loop takes no commands.
    pub(super) fn settle(&mut self, loops: Option<&Loops>) -> Result<(), Fault> {
        self.hand_over_all(loops)?;
        let generation = |number: u32| self.workers.get(&number).map(|worker| worker.generation);
        let holders = self.places.iter().filter_map(|place| place.holder);
        let oldest = holders.filter_map(generation).min().unwrap_or(self.generations.ceiling);
        if oldest > self.generations.floor {
            self.set_generations(oldest, self.generations.ceiling, loops)?;
        }
        self.finish_renewal();
        Ok(())
    }

    /// Changes how many workers there are to be; returns how many that is. More are started, the
    /// last ones leave.
    ///
    /// # Errors
    /// A loop takes no commands.
    pub fn resize(
        &mut self,
        workers: usize,
        now: Instant,
        loops: Option<&Loops>,
    ) -> Result<usize, Fault> {
        let wanted = workers.min(self.blocks.workers_max());
        while self.places.len() < wanted {
            // In a reload, whoever comes is of the new generation.
            self.places.push(match &self.renewal {
                Some(_) => Place { replace: Some(Why::Reload), ..Place::default() },
                None => Place::due(now),
            });
        }
        while self.places.len() > wanted {
            let Some(place) = self.places.pop() else { break };
            [place.holder, place.successor].into_iter().flatten().for_each(|who| self.leave(who));
        }
        if wanted == 0 {
            let fault = Fault::new(
                ExitCode::Stopped,
                "all workers were told to leave",
                "HUP, TTIN or another reload brings workers back",
            );
            self.give_up_reload(&fault, "", now);
        }
        self.settle(loops)?;
        Ok(self.places.len())
    }

    /// How many workers there are to be.
    pub fn size(&self) -> usize {
        self.places.len()
    }

    /// Whether a place waits for its worker, or has one that is not READY yet.
    pub fn is_booting(&self) -> bool {
        let boots = |place: &Place| {
            let worker = place.holder.and_then(|holder| self.workers.get(&holder));
            place.holder.is_none()
                || worker.is_some_and(|worker| !matches!(worker.phase, Phase::Ready(_)))
        };
        self.places.iter().any(boots)
    }
}
