//! Doing things at once: what each waits for, a transaction group, they share.

use kld_core::Result;

/// Does the same with each of many, at once; the first failure counts.
pub(super) fn each<T: Sync>(many: &[T], deed: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    /// Far more share a transaction group than a host has processors.
    const AT_ONCE: usize = 64;
    if let [one] = many {
        return deed(one);
    }
    many.chunks(AT_ONCE).try_for_each(|some| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|one| scope.spawn(|| deed(one))).collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    })
}

/// Does two things at once. The failure of the second counts before that of the first, which may wait for it.
pub(super) fn both(
    one: impl FnOnce() -> Result<()> + Send,
    other: impl FnOnce() -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        other.and(one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
