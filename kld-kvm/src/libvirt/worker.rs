//! The thread that owns the connection. libvirt's calls block for as long as the daemon pleases; callers here
//! wait with a time limit, and the thread alone waits for ever.

use std::sync::atomic::{AtomicIsize, AtomicU8, Ordering::SeqCst};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::{Error, Result};
use virt::connect::Connect;

use super::tell;

/// How long a worker is waited for when it closes the connection.
const CLOSING: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// The thread, and where its jobs are put.
struct Thread {
    jobs: Sender<Job>,
    handle: thread::JoinHandle<()>,
}

/// Runs closures on the thread that owns the connection, which is opened by the first of them.
pub(super) struct Worker {
    uri: String,
    thread: OnceLock<Thread>,
    /// Jobs whose callers stopped waiting and that have not come back. While there are any, nobody else waits.
    stuck: Arc<AtomicIsize>,
}

/// What becomes of a job: the first of caller and thread to write wins.
const WAITING: u8 = 0;
const DONE: u8 = 1;
const ABANDONED: u8 = 2;

impl Worker {
    pub(super) fn new(uri: &str) -> Self {
        Worker { uri: uri.to_string(), thread: OnceLock::new(), stuck: Arc::default() }
    }

    /// Runs `job` and waits for it, up to `limit`. A job that was given up before its turn is not run.
    pub(super) fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(&Connect) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.stuck.load(SeqCst) > 0 {
            return Err(tell::silent(&self.uri, tell::STILL_SILENT));
        }
        let (answer, answered) = mpsc::channel();
        let fate = Arc::new(AtomicU8::new(WAITING));
        let (stuck, seen) = (Arc::clone(&self.stuck), Arc::clone(&fate));
        let job: Job = Box::new(move |session| {
            if seen.load(SeqCst) == WAITING {
                let _ = answer.send(session.connection().and_then(job));
            }
            if seen.swap(DONE, SeqCst) == ABANDONED {
                stuck.fetch_sub(1, SeqCst);
            }
        });
        self.jobs()?.send(job).map_err(|_| Error::message("the thread that talks to libvirt has ended"))?;
        if let Ok(result) = answered.recv_timeout(limit) {
            return result;
        }
        if fate.swap(ABANDONED, SeqCst) == WAITING {
            self.stuck.fetch_add(1, SeqCst);
        }
        // The answer may have come between the limit and the line above.
        answered.try_recv().unwrap_or_else(|_| Err(tell::silent(&self.uri, tell::not_within(limit))))
    }

    fn jobs(&self) -> Result<&Sender<Job>> {
        if let Some(thread) = self.thread.get() {
            return Ok(&thread.jobs);
        }
        let thread = start(Session { uri: self.uri.clone(), connect: None })?;
        // Of two first callers one wins; the other's thread ends with its channel.
        Ok(&self.thread.get_or_init(|| thread).jobs)
    }
}

impl Drop for Worker {
    /// Closes the connection and ends the thread before the process goes on to its exit handlers, unless the
    /// daemon hangs: what libvirt keeps for each thread is freed when the thread ends, and freeing it while the
    /// exit handlers take libvirt's libraries down corrupts the heap.
    fn drop(&mut self) {
        let Some(Thread { jobs, handle }) = self.thread.take() else { return };
        let (closing, closed) = mpsc::channel();
        let close = move |session: &mut Session| {
            session.close();
            let _ = closing.send(());
        };
        let asked = jobs.send(Box::new(close)).is_ok() && self.stuck.load(SeqCst) == 0;
        drop(jobs);
        if asked && closed.recv_timeout(CLOSING).is_ok() {
            let _ = handle.join();
        }
    }
}

fn start(mut session: Session) -> Result<Thread> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let handle = thread::Builder::new()
        .name("libvirt".into())
        .spawn(move || queue.into_iter().for_each(|job| job(&mut session)))
        .trying(|| "cannot start a thread for libvirt".to_string())?;
    Ok(Thread { jobs, handle })
}

/// The connection, as the thread sees it.
struct Session {
    uri: String,
    connect: Option<Connect>,
}

impl Session {
    /// The connection: a new one where there is none or where the last call lost it.
    fn connection(&mut self) -> Result<&Connect> {
        // Asks the client's own socket; no round trip.
        if self.connect.as_ref().is_some_and(|connect| !connect.is_alive().unwrap_or(false)) {
            self.close();
        }
        if self.connect.is_none() {
            super::lazy::load()?;
            // libvirt's own handler prints every error to stderr.
            virt::error::clear_error_callback();
            // No aliases, no authentication callbacks, no version checks: measured at 1.5 ms, all of it in the
            // round trips that the protocol needs.
            let opened = Connect::open(Some(&self.uri));
            self.connect = Some(opened.map_err(|error| tell::unreachable(&self.uri, error.message()))?);
        }
        self.connect.as_ref().ok_or_else(|| Error::message("there is no connection to libvirt"))
    }

    fn close(&mut self) {
        if let Some(mut connect) = self.connect.take() {
            let _ = connect.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// libvirt's in-memory driver needs no daemon.
    const TEST_DRIVER: &str = "test:///default";
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn jobs_run_on_one_connection() {
        let worker = Worker::new(TEST_DRIVER);
        let pointer = || worker.call(CLOSING, |connect| Ok(connect.as_ptr() as usize)).unwrap();
        assert_eq!(pointer(), pointer());
    }

    #[test]
    fn a_job_that_hangs_is_given_up_and_the_next_caller_does_not_wait() {
        let worker = Worker::new(TEST_DRIVER);
        let (release, hold) = mpsc::channel::<()>();
        let hang = worker.call(SHORT, move |_| Ok(hold.recv().is_ok())).unwrap_err();
        assert_eq!(
            hang.to_string(),
            "cannot reach libvirt at test:///default: it did not answer within 0.05 s"
        );
        assert!(hang.hint().unwrap().contains("systemctl status libvirtd"));

        let start = Instant::now();
        let next = worker.call(Duration::from_secs(60), |_| Ok(())).unwrap_err();
        assert!(next.to_string().ends_with(": it still does not answer an earlier call"), "{next}");
        assert!(start.elapsed() < Duration::from_secs(1));

        // The daemon comes back: so does the worker.
        release.send(()).unwrap();
        while worker.stuck.load(SeqCst) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        worker.call(CLOSING, |_| Ok(())).unwrap();
    }

    #[test]
    fn a_job_that_was_given_up_in_the_queue_is_not_run() {
        let worker = Arc::new(Worker::new(TEST_DRIVER));
        let (release, hold) = mpsc::channel::<()>();
        let other = Arc::clone(&worker);
        let holder = thread::spawn(move || other.call(CLOSING * 60, move |_| Ok(hold.recv().is_ok())));
        while worker.thread.get().is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(SHORT);
        let ran = Arc::new(AtomicU8::new(0));
        let seen = Arc::clone(&ran);
        worker
            .call(SHORT, move |_| {
                seen.store(1, SeqCst);
                Ok(())
            })
            .unwrap_err();
        release.send(()).unwrap();
        assert!(holder.join().unwrap().unwrap());
        worker.call(CLOSING, |_| Ok(())).ok();
        assert_eq!(ran.load(SeqCst), 0);
    }
}
