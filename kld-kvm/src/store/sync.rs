use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use kld_core::error::Trying;
use kld_core::{Result, fsio};

/// More at once bring nothing: file systems put what waits together into one transaction.
const AT_ONCE: usize = 16;

/// Makes files and folders durable, all at once. One after the other would cost a transaction of the file system
/// for each, and there are three of them for every clone.
pub(super) fn sync_all<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let paths: Vec<&PathBuf> = paths.into_iter().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync(path)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..paths.len().min(AT_ONCE))
            .filter_map(|_| std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, work).ok())
            .collect();
        let own = work();
        let theirs = helpers.into_iter().filter_map(|helper| helper.join().ok()).collect::<Result<()>>();
        own.and(theirs)
    })
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .trying(|| format!("cannot write {} to the disk", path.display()))
}

/// Replaces the contents of many files, each in one step, with one wait for the disk. The names are durable when
/// the caller has synced the folders.
pub(super) fn replace_all(files: &[(PathBuf, Vec<u8>)], mode: u32) -> Result<()> {
    let temporary: Vec<PathBuf> = files.iter().map(|(path, _)| fsio::temporary_beside(path)).collect();
    let replaced = (|| {
        for ((path, text), temporary) in files.iter().zip(&temporary) {
            fsio::remove_if_exists(temporary)?;
            let mut file = fsio::create_new(temporary, mode)?;
            std::io::Write::write_all(&mut file, text)
                .trying(|| format!("cannot write {}", path.display()))?;
        }
        sync_all(&temporary)?;
        for ((path, _), temporary) in files.iter().zip(&temporary) {
            std::fs::rename(temporary, path).trying(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    })();
    replaced.inspect_err(|_| temporary.iter().for_each(|path| drop(std::fs::remove_file(path))))
}
