//! Writes and reads of a GPU's memory at addresses that stay, by CUDA's driver: ONNX Runtime copies only into tensors that
//! it has just made.

use std::error::Error;
use std::ffi::{c_int, c_void};

use libloading::Library;
use ort::value::{PrimitiveTensorElementType, Tensor};

use super::RuntimeError;

/// The driver's library, which the CUDA execution provider has loaded already.
const DRIVER: &str = "libcuda.so.1";

/// `CUdeviceptr`
type Address = u64;
/// `cuMemcpyHtoD_v2(to, from, bytes)`
type CopyIn = unsafe extern "C" fn(Address, *const c_void, usize) -> c_int;
/// `cuMemcpyDtoH_v2(to, from, bytes)`
type CopyOut = unsafe extern "C" fn(*mut c_void, Address, usize) -> c_int;
/// `cuStreamSynchronize(stream)`
type Wait = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The memory of the GPU that this thread's session runs on: a run makes its context the thread's.
pub(super) struct DeviceMemory {
    copy_in: CopyIn,
    copy_out: CopyOut,
    wait: Wait,
    /// Where the functions lie.
    _driver: Library,
}

impl DeviceMemory {
    /// Finds the driver.
    ///
    /// # Errors
    /// It is not there, which no machine with a session on CUDA is without.
    pub fn open() -> Result<DeviceMemory, RuntimeError> {
        Self::open_from(DRIVER)
    }

    fn open_from(library: &str) -> Result<DeviceMemory, RuntimeError> {
        // SAFETY: the driver's library may be loaded at any time, and the functions have had these types since CUDA 3.2.
        let opened = || unsafe {
            let driver = Library::new(library)?;
            Ok(DeviceMemory {
                copy_in: *driver.get::<CopyIn>(b"cuMemcpyHtoD_v2\0")?,
                copy_out: *driver.get::<CopyOut>(b"cuMemcpyDtoH_v2\0")?,
                wait: *driver.get::<Wait>(b"cuStreamSynchronize\0")?,
                _driver: driver,
            })
        };
        opened().map_err(|error: libloading::Error| RuntimeError::Driver {
            doing: "being loaded",
            // The loader's own words are the cause of libloading's.
            reason: error.source().map_or_else(|| error.to_string(), ToString::to_string),
        })
    }

    /// Overwrites all of `to`. It is there for kernels that are launched after [`Self::settle`].
    pub fn write<T: PrimitiveTensorElementType + std::fmt::Debug>(
        &self,
        to: &mut Tensor<T>,
        values: &[T],
    ) -> Result<(), RuntimeError> {
        assert_eq!(to.shape().num_elements(), values.len(), "all of a tensor is written");
        // SAFETY: the tensor's memory is as long as the slice, and the exclusive borrow keeps others from writing it.
        let status = unsafe { (self.copy_in)(to.data_ptr_mut() as Address, values.as_ptr().cast(), size_of_val(values)) };
        checked(status, "writing to the GPU's memory")
    }

    /// Waits for what was written. A small write returns once the driver has taken the values, and ONNX Runtime's stream
    /// waits for no other.
    pub fn settle(&self) -> Result<(), RuntimeError> {
        // SAFETY: null is the stream of the two copies.
        checked(unsafe { (self.wait)(std::ptr::null_mut()) }, "writing to the GPU's memory")
    }

    /// All of `from`, which nothing computes any more.
    pub fn read<T: PrimitiveTensorElementType + std::fmt::Debug + Default + Clone>(
        &self,
        from: &Tensor<T>,
    ) -> Result<Vec<T>, RuntimeError> {
        let mut values = vec![T::default(); from.shape().num_elements()];
        // SAFETY: the vector is as long as the tensor's memory.
        let status = unsafe { (self.copy_out)(values.as_mut_ptr().cast(), from.data_ptr() as Address, size_of_val(&values[..])) };
        checked(status, "reading the GPU's memory")?;
        Ok(values)
    }
}

fn checked(status: c_int, doing: &'static str) -> Result<(), RuntimeError> {
    match status {
        0 => Ok(()),
        // CUDA_ERROR_OUT_OF_MEMORY
        2 => Err(RuntimeError::OutOfMemory { doing, reason: "CUDA's driver has none left".to_owned() }),
        status => Err(RuntimeError::Driver { doing, reason: format!("error {status}") }),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ort::memory::Allocator;

    use super::*;
    use crate::runtime::{ExecutionProvider, locate};

    /// A driver whose device is the host: out of memory beyond 64 bytes, broken at 52.
    const DRIVER: &str = r#"
        #include <string.h>
        static int status(unsigned long n) { return n > 64 ? 2 : n == 52 ? 700 : 0; }
        int cuMemcpyHtoD_v2(unsigned long long to, const void *from, unsigned long n) {
            return status(n) ? status(n) : (memcpy((void *)to, from, n), 0);
        }
        int cuMemcpyDtoH_v2(void *to, unsigned long long from, unsigned long n) { memcpy(to, (void *)from, n); return 0; }
        int cuStreamSynchronize(void *stream) { return stream != 0; }
    "#;

    #[test]
    fn a_tensor_is_written_and_read_whole_or_the_driver_s_error_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("cuda.c"), folder.path().join("libcuda.so"));
        std::fs::write(&source, DRIVER).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        assert!(compiled.expect("cc is what Rust links with").success());
        let memory = DeviceMemory::open_from(library.to_str().unwrap()).unwrap();
        let _runtime = locate::runtime(ExecutionProvider::Cpu).unwrap();

        let tensor = |elements: usize| Tensor::<i32>::new(&Allocator::default(), [elements]).unwrap();
        let mut small = tensor(3);
        memory.write(&mut small, &[7, -8, 9]).unwrap();
        memory.settle().unwrap();
        assert_eq!(memory.read(&small).unwrap(), [7, -8, 9]);
        let refused = memory.write(&mut tensor(17), &[0; 17]).unwrap_err();
        assert!(matches!(refused, RuntimeError::OutOfMemory { .. }), "{refused}");
        let broken = memory.write(&mut tensor(13), &[0; 13]).unwrap_err().to_string();
        assert_eq!(broken, "CUDA's driver failed while writing to the GPU's memory: error 700");
        let missing = DeviceMemory::open_from("libno-such-driver.so").err().map(|error| error.to_string()).unwrap();
        assert!(missing.starts_with("CUDA's driver failed while being loaded: libno-such-driver.so"), "{missing}");
    }
}
