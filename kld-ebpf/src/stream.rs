//! Events as an async stream, on tokio's clock: the ring is looked into every few milliseconds, as by the iterator.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep};

use crate::tracer::{LOOK, Step};
use crate::{Probe, Tracer};

/// The events of a [`Tracer`]. It ends as the tracer does, and dropping it takes the programs out of the kernel.
pub struct Events<P> {
    tracer: Tracer<P>,
    pause: Pin<Box<Sleep>>,
    /// How many events were handed out without a pause.
    in_a_row: u64,
}

impl<P: Probe> std::fmt::Debug for Events<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("tracer", &self.tracer).finish_non_exhaustive()
    }
}

impl<P: Probe> Tracer<P> {
    /// The events as an async stream. Call it within a runtime of tokio's whose clock is enabled.
    pub fn into_stream(self) -> Events<P> {
        let pause = Box::pin(sleep(self.moment()));
        Events { tracer: self, pause, in_a_row: 0 }
    }
}

impl<P: Probe> Events<P> {
    /// The next event; `None` after the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<P::Event> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// What was counted, what it has cost, and what stops it.
    pub fn tracer(&self) -> &Tracer<P> {
        &self.tracer
    }
}

impl<P: Probe> Stream for Events<P> {
    type Item = P::Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<P::Event>> {
        // Others have their turn, also where there is never a moment without events.
        if self.in_a_row >= LOOK {
            self.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match self.tracer.step() {
                Step::Event(event) => {
                    self.in_a_row += 1;
                    return Poll::Ready(Some(event));
                }
                Step::Over => return Poll::Ready(None),
                Step::Wait => {
                    self.in_a_row = 0;
                    let until = Instant::now() + self.tracer.moment();
                    self.pause.as_mut().reset(until);
                    if self.pause.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
