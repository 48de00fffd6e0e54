//! Opening an object store by its address.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use super::{Objects, ObjectsError};

impl Objects {
    /// Opens a store: a path or `file:///path`, or `s3://bucket/prefix`.
    ///
    /// S3 takes its settings from the usual variables: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, …
    pub async fn open(place: &str) -> Result<Self, ObjectsError> {
        match Url::parse(place) {
            Ok(url) if url.scheme() == "s3" => open_s3(&url),
            Ok(url) if url.scheme() == "file" => {
                let path = url
                    .to_file_path()
                    .map_err(|()| refused(place, "a file address looks like file:///path"))?;
                open_folder(&path).await
            }
            // One letter before the colon would be a drive of Windows; anything longer is another kind of store.
            Ok(url) => Err(refused(url.scheme(), "known are a path, file:///path and s3://bucket/prefix")),
            Err(_) => open_folder(FsPath::new(place)).await,
        }
    }
}

fn refused(place: &str, reason: &str) -> ObjectsError {
    ObjectsError::Location { place: place.to_owned(), reason: reason.to_owned() }
}

async fn open_folder(path: &FsPath) -> Result<Objects, ObjectsError> {
    let create = |path: PathBuf| async move {
        tokio::fs::create_dir_all(&path).await.map_err(ObjectsError::io(&path))?;
        tokio::fs::canonicalize(&path).await.map_err(ObjectsError::io(path))
    };
    let folder = create(path.to_owned()).await?;
    let scratch = create(folder.join("scratch")).await?;
    let inner = LocalFileSystem::new_with_prefix(&folder)?;
    Ok(Objects {
        inner: Arc::new(inner),
        prefix: Path::default(),
        shown: folder.display().to_string(),
        folder: Some(folder),
        scratch,
    })
}

fn open_s3(url: &Url) -> Result<Objects, ObjectsError> {
    let bucket = url.host_str().unwrap_or_default();
    // Credentials in an address would end up in logs and process lists.
    if bucket.is_empty() || !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(refused(
            &format!("s3://{bucket}{}", url.path()),
            "an S3 address looks like s3://bucket/prefix; credentials come from AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
        ));
    }
    let prefix = Path::from_url_path(url.path()).map_err(object_store::Error::from)?;
    let inner = AmazonS3Builder::from_env().with_bucket_name(bucket).build()?;
    Ok(Objects {
        inner: Arc::new(inner),
        shown: format!("s3://{bucket}/{prefix}"),
        prefix,
        folder: None,
        scratch: std::env::temp_dir(),
    })
}
