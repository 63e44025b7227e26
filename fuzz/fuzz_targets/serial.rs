#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fota_fuzz::serial(data));
