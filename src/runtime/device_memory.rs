//! Clears, writes and reads a GPU's memory at addresses that stay, by CUDA's driver: ONNX Runtime copies only into tensors
//! that it has just made.

use std::error::Error;
use std::ffi::{c_int, c_uint, c_void};

use libloading::Library;
use ort::value::{DynTensor, PrimitiveTensorElementType, Tensor};

use super::RuntimeError;
use super::cache::bytes_of;

/// The driver's library, which the CUDA execution provider has loaded already.
const DRIVER: &str = "libcuda.so.1";

/// Bytes of the zeros that memory is cleared with.
const ZEROS: usize = 4 << 20;

/// `CUdeviceptr`
type Address = u64;
/// `cuInit(flags)`
type Init = unsafe extern "C" fn(c_uint) -> c_int;
/// `cuDeviceGet(device, ordinal)`
type GetDevice = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
/// `cuDevicePrimaryCtxRetain(context, device)`
type Retain = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;
/// `cuCtxSetCurrent(context)`
type Enter = unsafe extern "C" fn(*mut c_void) -> c_int;
/// `cuMemAllocHost_v2(memory, bytes)`
type AllocateHost = unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int;
/// `cuMemFreeHost(memory)`
type FreeHost = unsafe extern "C" fn(*mut c_void) -> c_int;
/// `cuMemcpyHtoD_v2(to, from, bytes)`
type CopyIn = unsafe extern "C" fn(Address, *const c_void, usize) -> c_int;
/// `cuMemcpyDtoH_v2(to, from, bytes)`
type CopyOut = unsafe extern "C" fn(*mut c_void, Address, usize) -> c_int;
/// `cuStreamSynchronize(stream)`
type Wait = unsafe extern "C" fn(*mut c_void) -> c_int;

/// What is used of the driver.
struct Driver {
    init: Init,
    get_device: GetDevice,
    retain: Retain,
    enter: Enter,
    allocate_host: AllocateHost,
    free_host: FreeHost,
    copy_in: CopyIn,
    copy_out: CopyOut,
    wait: Wait,
    /// Where the functions lie.
    _library: Library,
}

impl Driver {
    fn load(path: &str) -> Result<Driver, libloading::Error> {
        // SAFETY: the driver's library may be loaded at any time, and the functions have had these types since CUDA 7.
        unsafe {
            let library = Library::new(path)?;
            Ok(Driver {
                init: *library.get(b"cuInit\0")?,
                get_device: *library.get(b"cuDeviceGet\0")?,
                retain: *library.get(b"cuDevicePrimaryCtxRetain\0")?,
                enter: *library.get(b"cuCtxSetCurrent\0")?,
                allocate_host: *library.get(b"cuMemAllocHost_v2\0")?,
                free_host: *library.get(b"cuMemFreeHost\0")?,
                copy_in: *library.get(b"cuMemcpyHtoD_v2\0")?,
                copy_out: *library.get(b"cuMemcpyDtoH_v2\0")?,
                wait: *library.get(b"cuStreamSynchronize\0")?,
                _library: library,
            })
        }
    }

    /// The primary context of device 0, which ONNX Runtime works in too. It is kept until the process ends.
    fn context(&self) -> Result<*mut c_void, RuntimeError> {
        let (mut device, mut context) = (0, std::ptr::null_mut());
        let doing = "starting the GPU";
        // SAFETY: both are written before they are read.
        unsafe {
            checked((self.init)(0), doing)?;
            checked((self.get_device)(&raw mut device, 0), doing)?;
            checked((self.retain)(&raw mut context, device), doing)?;
        }
        Ok(context)
    }
}

/// The memory of CUDA's device 0, the first of those that `CUDA_VISIBLE_DEVICES` shows: every session runs there.
pub(super) struct DeviceMemory {
    driver: Driver,
    /// Address of the device's context.
    context: usize,
    /// Address of [`ZEROS`] bytes in pages that the GPU reads directly.
    zeros: usize,
}

impl DeviceMemory {
    /// Finds the driver and its device.
    ///
    /// # Errors
    /// The driver is not there, which no machine with a session on CUDA is without, or its device does not start.
    pub fn open() -> Result<DeviceMemory, RuntimeError> {
        Self::open_from(DRIVER)
    }

    fn open_from(library: &str) -> Result<DeviceMemory, RuntimeError> {
        let driver = Driver::load(library).map_err(|error| RuntimeError::Driver {
            doing: "being loaded",
            // The loader's own words are the cause of libloading's.
            reason: error.source().map_or_else(|| error.to_string(), ToString::to_string),
        })?;
        let context = driver.context()? as usize;
        let mut memory = DeviceMemory { driver, context, zeros: 0 };
        let mut zeros = std::ptr::null_mut();
        // SAFETY: the driver hands out that many bytes, which nobody else knows.
        unsafe {
            checked((memory.entered()?.allocate_host)(&raw mut zeros, ZEROS), "taking memory that the GPU can read")?;
            zeros.cast::<u8>().write_bytes(0, ZEROS);
        }
        memory.zeros = zeros as usize;
        Ok(memory)
    }

    /// The driver, told that this thread works on the device: which thread that is may change from call to call.
    fn entered(&self) -> Result<&Driver, RuntimeError> {
        // SAFETY: the context is never released.
        checked(unsafe { (self.driver.enter)(self.context as *mut c_void) }, "starting the GPU")?;
        Ok(&self.driver)
    }

    /// Zeroes all of `to`, for kernels that are launched after [`Self::settle`].
    ///
    /// By copies from the host, though filling the memory on the GPU would be faster: that is a kernel on a second stream, and a
    /// process that has run one replays recorded steps more slowly, 6 % for Llama-3.2-1B's shape in INT4 (`results/gpu-bench`).
    pub fn zero(&self, to: &mut DynTensor) -> Result<(), RuntimeError> {
        let (begin, bytes, driver) = (to.data_ptr_mut() as Address, bytes_of(to), self.entered()?);
        for done in (0..bytes).step_by(ZEROS) {
            let length = ZEROS.min(bytes - done);
            // SAFETY: the tensor's memory is that long, and the exclusive borrow keeps others from writing it.
            let status = unsafe { (driver.copy_in)(begin + done as Address, self.zeros as *const c_void, length) };
            checked(status, "clearing the GPU's memory")?;
        }
        Ok(())
    }

    /// Overwrites all of `to`. It is there for kernels that are launched after [`Self::settle`].
    pub fn write<T: PrimitiveTensorElementType + std::fmt::Debug>(
        &self,
        to: &mut Tensor<T>,
        values: &[T],
    ) -> Result<(), RuntimeError> {
        assert_eq!(to.shape().num_elements(), values.len(), "all of a tensor is written");
        // SAFETY: the tensor's memory is as long as the slice, and the exclusive borrow keeps others from writing it.
        let status =
            unsafe { (self.entered()?.copy_in)(to.data_ptr_mut() as Address, values.as_ptr().cast(), size_of_val(values)) };
        checked(status, "writing to the GPU's memory")
    }

    /// Waits for what was written or zeroed. A small write returns once the driver has taken the values, and ONNX Runtime's stream
    /// waits for no other.
    pub fn settle(&self) -> Result<(), RuntimeError> {
        // SAFETY: null is the stream of all copies.
        checked(unsafe { (self.entered()?.wait)(std::ptr::null_mut()) }, "writing to the GPU's memory")
    }

    /// All of `from`, which nothing computes any more.
    pub fn read<T: PrimitiveTensorElementType + std::fmt::Debug + Default + Clone>(
        &self,
        from: &Tensor<T>,
    ) -> Result<Vec<T>, RuntimeError> {
        let mut values = vec![T::default(); from.shape().num_elements()];
        // SAFETY: the vector is as long as the tensor's memory.
        let status = unsafe {
            (self.entered()?.copy_out)(values.as_mut_ptr().cast(), from.data_ptr() as Address, size_of_val(&values[..]))
        };
        checked(status, "reading the GPU's memory")?;
        Ok(values)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(driver) = self.entered() {
            // SAFETY: copies from it have ended.
            unsafe { (driver.free_host)(self.zeros as *mut c_void) };
        }
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
    use std::path::Path;
    use std::process::Command;

    use ort::memory::Allocator;

    use super::*;
    use crate::runtime::{ExecutionProvider, locate};

    /// A driver whose device is the host: out of memory at 68 bytes, broken at 52, and known only to threads that entered its
    /// context. Without `STARTS` its device does not start.
    const DRIVER: &str = r#"
        #include <stdlib.h>
        #include <string.h>
        static int context;
        static _Thread_local void *current;
        int cuInit(unsigned flags) { return flags != 0; }
        int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 3; return 0; }
        int cuDevicePrimaryCtxRetain(void **retained, int device) { *retained = &context; return STARTS ? device != 3 : 100; }
        int cuCtxSetCurrent(void *entered) { current = entered; return 0; }
        int cuMemAllocHost_v2(void **memory, unsigned long n) {
            *memory = malloc(n);
            memset(*memory, 1, n);
            return current == &context ? 0 : 201;
        }
        int cuMemFreeHost(void *memory) { free(memory); return 0; }
        static int status(unsigned long n) { return current != &context ? 201 : n == 68 ? 2 : n == 52 ? 700 : 0; }
        int cuMemcpyHtoD_v2(unsigned long long to, const void *from, unsigned long n) {
            return status(n) ? status(n) : (memcpy((void *)to, from, n), 0);
        }
        int cuMemcpyDtoH_v2(void *to, unsigned long long from, unsigned long n) {
            return status(0) ? status(0) : (memcpy(to, (void *)from, n), 0);
        }
        int cuStreamSynchronize(void *stream) { return stream != 0; }
    "#;

    fn driver(folder: &Path, starts: bool) -> Result<DeviceMemory, RuntimeError> {
        let (source, library) = (folder.join("cuda.c"), folder.join("libcuda.so"));
        std::fs::write(&source, format!("#define STARTS {}\n{DRIVER}", u8::from(starts))).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        assert!(compiled.expect("cc is what Rust links with").success());
        DeviceMemory::open_from(library.to_str().unwrap())
    }

    #[test]
    fn a_tensor_is_zeroed_to_its_end_by_any_thread() {
        let folder = tempfile::tempdir().unwrap();
        let memory = driver(folder.path(), true).unwrap();
        let _runtime = locate::runtime(ExecutionProvider::Cpu).unwrap();
        // Two times all the zeros that there are, and a little more.
        let values = vec![1i16; ZEROS + 1];
        let mut tensor = Tensor::from_array(([values.len()], values)).unwrap().upcast();
        std::thread::scope(|scope| scope.spawn(|| memory.zero(&mut tensor)).join().unwrap()).unwrap();
        let (_, values) = tensor.try_extract_tensor::<i16>().unwrap();
        assert!(values.iter().all(|&value| value == 0));
    }

    #[test]
    fn a_device_that_does_not_start_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let refused = driver(folder.path(), false).err().map(|error| error.to_string()).unwrap();
        assert_eq!(refused, "CUDA's driver failed while starting the GPU: error 100");
    }

    #[test]
    fn a_tensor_is_written_and_read_whole_or_the_driver_s_error_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let memory = driver(folder.path(), true).unwrap();
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
