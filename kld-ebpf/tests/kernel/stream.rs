//! Events as an async stream.

use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::events::Counts;
use kld_ebpf::probe::{Kill, Open};

use crate::common::{Generator, cannot_trace, start};

fn open_and_close(times: usize) {
    for _ in 0..times {
        // SAFETY: the path is alive, and the descriptor is closed at once.
        unsafe { libc::close(libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY)) };
    }
}

#[tokio::test]
async fn each_event_comes_or_is_counted_as_lost_while_others_run_too() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(|| open_and_close(100_000));
    let mut events = start::<Open>(&Filter::pid(generator.pid)).into_stream();
    let stopper = events.tracer().stopper();
    let done = std::thread::spawn(move || {
        generator.go();
        stopper.stop();
    });
    // On the same thread of the runtime.
    let other = tokio::spawn(async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Instant::now()
    });
    let mut read = 0;
    while events.next().await.is_some() {
        read += 1;
    }
    let end = Instant::now();
    done.join().unwrap();
    let Counts { seen, lost } = events.tracer().counts().unwrap();
    assert_eq!((seen, read + lost), (100_000, 100_000));
    assert!(other.await.unwrap() < end, "the other task had its turn before the end");
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(|| open_and_close(10));
    let mut events = start::<Open>(&Filter::pid(generator.pid)).into_stream();
    let given_up = tokio::time::timeout(Duration::from_millis(20), events.next()).await;
    assert!(given_up.is_err(), "nothing has happened yet");
    generator.go();
    events.tracer().stopper().stop();
    let mut read = 0;
    while events.next().await.is_some() {
        read += 1;
    }
    assert_eq!(read, 10);
}

#[tokio::test]
async fn a_stream_ends_when_its_time_has_come() {
    if cannot_trace() {
        return;
    }
    let mut tracer = start::<Kill>(&Filter { uid: Some(4711), ..Filter::all() });
    let began = Instant::now();
    tracer.stop_at(began + Duration::from_millis(100));
    let mut events = tracer.into_stream();
    assert!(events.next().await.is_none() && events.next().await.is_none());
    assert!(began.elapsed() >= Duration::from_millis(100) && began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_stream_may_go_to_another_thread() {
    fn is_send<T: Send + Unpin>() {}
    is_send::<kld_ebpf::stream::Events<Open>>();
}
