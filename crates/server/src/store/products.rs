use fota_proto::Sha256;

use super::{StoreError, Tx, db::values};

impl Tx {
    /// The secure boot keys that may sign images of a product, sorted; none where nothing is asked.
    pub async fn secure_boot_keys(&mut self, product: &str) -> Result<Vec<Sha256>, StoreError> {
        self.all(
            "SELECT key_digest FROM product_secure_boot WHERE product = $1 ORDER BY key_digest",
            values![product],
            |row| row.parsed(),
        )
        .await
    }

    /// Replaces the secure boot keys of a product.
    pub async fn set_secure_boot_keys(
        &mut self,
        product: &str,
        digests: &[Sha256],
    ) -> Result<(), StoreError> {
        self.run(
            "DELETE FROM product_secure_boot WHERE product = $1",
            values![product],
        )
        .await?;
        for digest in digests {
            let digest = digest.to_string();
            self.run(
                "INSERT INTO product_secure_boot (product, key_digest) VALUES ($1, $2) \
                 ON CONFLICT (product, key_digest) DO NOTHING",
                values![product, digest],
            )
            .await?;
        }
        Ok(())
    }
}
