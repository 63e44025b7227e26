use fota_proto::manager::{Release, Rollout};
use serde_json::json;

use super::{Image, Server, TestDevice};

/// A device on 1.0.5 and a rollout of 1.0.6 to all.
pub struct Story {
    pub old: Image,
    pub new: Image,
    pub device: TestDevice,
    pub release: Release,
    pub rollout: Rollout,
}

impl Story {
    pub async fn begin(server: &Server) -> Self {
        let (old, new) = (Image::new("1.0.5"), Image::new("1.0.6"));
        server.release(&old).await;
        let release = server.release(&new).await;
        let mut device = TestDevice::running("ESP32-001", &old);
        device.check_in(server).await;
        let request = json!({"release": "1.0.6", "to": ["all"]});
        let rollout = server.rollout(request).await;
        Self {
            old,
            new,
            device,
            release,
            rollout,
        }
    }
}
