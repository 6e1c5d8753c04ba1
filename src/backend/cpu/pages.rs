//! Weights on large pages: rows are gathered from all over them, and with pages of 4 kB most of those have to be
//! looked up first. Not for buffers of which a part is used, as of lists' wide rows: a large page is there as a whole.

/// Below this a buffer has few pages anyway.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;

/// An empty vector with room for `len` elements.
pub(super) fn with_capacity<T>(len: usize) -> Vec<T> {
    advised(Vec::with_capacity(len))
}

/// Asks the system for large pages, where nothing was written yet.
fn advised<T>(buffer: Vec<T>) -> Vec<T> {
    #[cfg(target_os = "linux")]
    {
        // Only whole pages can be advised; the system finds the large ones among them.
        const PAGE: usize = 4096;
        let start = (buffer.as_ptr() as usize).next_multiple_of(PAGE);
        let end = buffer.as_ptr() as usize + buffer.capacity() * size_of::<T>();
        if end.saturating_sub(start) >= LARGE {
            // SAFETY: the pages are this buffer's; the advice changes nothing that can be read. It may be refused.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    buffer
}
