//! The asynchronous runtime of a command.

use super::failure::Failure;

/// Runs a future to its end, on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| Failure::io("the runtime", &error))?.block_on(future)
}
