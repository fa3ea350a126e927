//! Locks between processes: files that the kernel unlocks when their holder ends, however it ends.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::{KernelError, Step};

/// How long another process may hold a lock: a little more than a fetch may take.
const PATIENCE: Duration = Duration::from_secs(2700);

/// A lock, given up when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn open(path: &Path) -> Result<File, KernelError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(KernelError::writing(folder))?;
    }
    File::options().create(true).append(true).open(path).map_err(KernelError::writing(path))
}

impl Lock {
    /// Takes the lock, if nobody has it.
    ///
    /// # Errors
    /// [`KernelError::Write`].
    pub fn try_take(path: &Path) -> Result<Option<Self>, KernelError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(KernelError::writing(path)(error)),
        }
    }

    /// Takes the lock, and waits for it if somebody has it.
    ///
    /// # Errors
    /// [`KernelError::Busy`], [`KernelError::Write`].
    pub fn take(path: &Path, step: &mut dyn FnMut(Step<'_>)) -> Result<Self, KernelError> {
        if let Some(lock) = Self::try_take(path)? {
            return Ok(lock);
        }
        step(Step::Waiting);
        wait(path.to_owned(), PATIENCE)
    }
}

/// A lock cannot be waited for with a deadline, so a thread waits. Should it get the lock too late, it gives it up.
fn wait(path: PathBuf, patience: Duration) -> Result<Lock, KernelError> {
    let file = open(&path)?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let locked = file.lock().map(|()| Lock { _file: file });
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(patience) {
        Ok(locked) => locked.map_err(KernelError::writing(path)),
        Err(_) => Err(KernelError::Busy { path, waited: patience }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_waited_for_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks/a");
        let held = Lock::take(&path, &mut |_| panic!("nobody else is here")).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        let error = wait(path.clone(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, KernelError::Busy { .. }), "{error}");

        let mut waited = false;
        let (started, begin) = mpsc::channel();
        let other = std::thread::spawn(move || {
            begin.recv().unwrap();
            drop(held);
        });
        Lock::take(&path, &mut |step| {
            waited = matches!(step, Step::Waiting);
            started.send(()).unwrap();
        })
        .unwrap();
        other.join().unwrap();
        assert!(waited);
    }
}
