//! Where tensors live.

use std::ffi::CString;

use tch::{Cuda, Device};

use super::TrainError;

/// The device that `train.device` names; `auto` is the first GPU if there is one.
///
/// # Errors
/// The value is none of `auto`, `cpu`, `cuda`, `cuda:<n>`, or that GPU is not there.
pub(super) fn choose(value: &str) -> Result<Device, TrainError> {
    let refuse = |problem: String| TrainError::Device { value: value.to_owned(), problem };
    if value == "cpu" {
        return Ok(Device::Cpu);
    }
    let index = match value {
        "auto" | "cuda" => 0,
        _ => value
            .strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .ok_or_else(|| refuse("expected auto, cpu, cuda or cuda:<n>".into()))?,
    };
    load_cuda();
    let devices = Cuda::device_count().max(0) as usize;
    match value {
        "auto" if devices == 0 => Ok(Device::Cpu),
        _ if index < devices => Ok(Device::Cuda(index)),
        _ => Err(refuse(format!(
            "libtorch sees {devices} GPUs: use cpu, or a libtorch with CUDA and a driver that fits it"
        ))),
    }
}

/// Loads `libtorch_cuda.so`, if libtorch has it, which registers the GPU with libtorch. The linker
/// leaves the library out because no symbol of it is named. That it is absent is no error: then
/// there is no GPU.
fn load_cuda() {
    let name = CString::new("libtorch_cuda.so").expect("the name has no NUL");
    // SAFETY: `dlopen` gets a valid C string. Loading runs the library's constructors, which
    // libtorch means to be run this way (its Python package does the same); it is never unloaded.
    unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_the_setting_or_refused_with_the_remedy() {
        assert_eq!(choose("cpu").unwrap(), Device::Cpu);
        assert!(choose("auto").is_ok());
        let message = choose("gpu").unwrap_err().to_string();
        assert_eq!(message, "train.device = \"gpu\": expected auto, cpu, cuda or cuda:<n>");
        assert!(choose("cuda:99").unwrap_err().to_string().contains("use cpu"));
    }
}
