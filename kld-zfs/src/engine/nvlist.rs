//! libzfs_core and libnvpair, loaded when they are first needed: the functions that kld calls, each looked up by name.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;

use kld_core::{Error, Result};
use nix::errno::Errno;
use nix::libc;

/// An nvlist of the library.
pub(super) type Raw = *mut c_void;

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($field:ident: $library:ident fn($($arg:ty),*) -> $result:ty;)*) => {
        /// The functions, all of them found.
        #[allow(non_snake_case)]
        pub(super) struct Functions { $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> $result),* }

        impl Functions {
            fn find(libraries: &Libraries) -> std::result::Result<Self, String> {
                Ok(Functions { $($field: {
                    let address = libraries.$library.find(concat!(stringify!($field), "\0"))?;
                    // SAFETY: the library's header declares the function so, and it is never unloaded.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> $result>(address) }
                }),* })
            }
        }
    };
}

functions! {
    libzfs_core_init: core fn() -> c_int;
    lzc_exists: core fn(*const c_char) -> c_int;
    lzc_create: core fn(*const c_char, c_int, Raw, *mut u8, u32) -> c_int;
    lzc_clone: core fn(*const c_char, *const c_char, Raw) -> c_int;
    lzc_promote: core fn(*const c_char, *mut c_char, c_int) -> c_int;
    lzc_snapshot: core fn(Raw, Raw, *mut Raw) -> c_int;
    lzc_destroy_snaps: core fn(Raw, c_int, *mut Raw) -> c_int;
    lzc_destroy: core fn(*const c_char) -> c_int;
    lzc_rename: core fn(*const c_char, *const c_char) -> c_int;
    lzc_rollback_to: core fn(*const c_char, *const c_char) -> c_int;
    nvlist_alloc: pairs fn(*mut Raw, u32, c_int) -> c_int;
    nvlist_free: pairs fn(Raw) -> ();
    nvlist_add_boolean: pairs fn(Raw, *const c_char) -> c_int;
    nvlist_add_string: pairs fn(Raw, *const c_char, *const c_char) -> c_int;
    nvlist_add_uint64: pairs fn(Raw, *const c_char, u64) -> c_int;
    nvlist_next_nvpair: pairs fn(Raw, *mut c_void) -> *mut c_void;
    nvpair_name: pairs fn(*mut c_void) -> *const c_char;
    nvpair_value_int32: pairs fn(*mut c_void, *mut i32) -> c_int;
}

struct Libraries {
    core: Opened,
    pairs: Opened,
}

/// A library that stays loaded to the end of the process.
struct Opened(NonNull<c_void>);

impl Opened {
    fn open(name: &CStr) -> std::result::Result<Self, String> {
        // SAFETY: the name ends with a NUL; the libraries' initialisers have no preconditions.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        NonNull::new(handle).map(Opened).ok_or_else(|| format!("{} cannot be loaded", name.to_string_lossy()))
    }

    fn find(&self, name: &'static str) -> std::result::Result<*mut c_void, String> {
        // SAFETY: the library is loaded, and the name ends with a NUL.
        let address = unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr().cast()) };
        match address.is_null() {
            true => Err(format!("libzfs_core has no function {}", name.trim_end_matches('\0'))),
            false => Ok(address),
        }
    }
}

/// The functions, loaded at the first call. The answer stays the same for the life of the process.
pub(super) fn functions() -> Result<&'static Functions> {
    static LOADED: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
    let load = || {
        let libraries =
            Libraries { core: Opened::open(c"libzfs_core.so.3")?, pairs: Opened::open(c"libnvpair.so.3")? };
        let functions = Functions::find(&libraries)?;
        // SAFETY: it opens /dev/zfs, counts its calls, and has no preconditions.
        match unsafe { (functions.libzfs_core_init)() } {
            0 => Ok(functions),
            errno => Err(format!("/dev/zfs cannot be opened: {}", Errno::from_raw(errno).desc())),
        }
    };
    LOADED.get_or_init(load).as_ref().map_err(|cause| Error::failed("cannot use libzfs_core", cause))
}

/// A list of names and values, as the library takes and gives them.
pub(super) struct List {
    raw: Raw,
    functions: &'static Functions,
}

impl List {
    pub(super) fn new(functions: &'static Functions) -> Result<Self> {
        /// NV_UNIQUE_NAME.
        const UNIQUE: u32 = 1;
        let mut raw = null_mut();
        // SAFETY: the place for the new list is given.
        added(unsafe { (functions.nvlist_alloc)(&mut raw, UNIQUE, 0) })?;
        Ok(List { raw, functions })
    }

    /// Owns a list that the library made; none is an empty one.
    pub(super) fn given(raw: Raw, functions: &'static Functions) -> Self {
        List { raw, functions }
    }

    pub(super) fn raw(&self) -> Raw {
        self.raw
    }

    pub(super) fn add_flag(&mut self, name: &str) -> Result<()> {
        let name = c_text(name)?;
        // SAFETY: the list is alive, and the name is a C string that the library copies.
        added(unsafe { (self.functions.nvlist_add_boolean)(self.raw, name.as_ptr()) })
    }

    pub(super) fn add_text(&mut self, name: &str, value: &str) -> Result<()> {
        let (name, value) = (c_text(name)?, c_text(value)?);
        // SAFETY: the list is alive, and both are C strings that the library copies.
        added(unsafe { (self.functions.nvlist_add_string)(self.raw, name.as_ptr(), value.as_ptr()) })
    }

    pub(super) fn add_number(&mut self, name: &str, value: u64) -> Result<()> {
        let name = c_text(name)?;
        // SAFETY: the list is alive, and the name is a C string that the library copies.
        added(unsafe { (self.functions.nvlist_add_uint64)(self.raw, name.as_ptr(), value) })
    }

    /// The numbers in it by name: what the library says about each thing that failed.
    pub(super) fn numbers(&self) -> Vec<(String, i32)> {
        let mut found = Vec::new();
        if self.raw.is_null() {
            return found;
        }
        let mut pair = null_mut();
        loop {
            // SAFETY: the list is alive, and the pair is null at first and one of its own from then on.
            pair = unsafe { (self.functions.nvlist_next_nvpair)(self.raw, pair) };
            if pair.is_null() {
                return found;
            }
            let mut value = 0;
            // SAFETY: the pair is one of a living list; its name is a C string that lives as long.
            let (name, got) = unsafe {
                let name = CStr::from_ptr((self.functions.nvpair_name)(pair)).to_string_lossy().into_owned();
                (name, (self.functions.nvpair_value_int32)(pair, &mut value))
            };
            if got == 0 {
                found.push((name, value));
            }
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: the list is this one's own, and is not used again.
            unsafe { (self.functions.nvlist_free)(self.raw) };
        }
    }
}

fn added(errno: c_int) -> Result<()> {
    match errno {
        0 => Ok(()),
        errno => Err(Error::failed("cannot make a list for libzfs_core", Errno::from_raw(errno).desc())),
    }
}

/// A name or value as the library takes it.
pub(super) fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::usage("a name of ZFS contains a zero byte"))
}
