//! AdminService: what the process holds beside what it may hold. The same for
//! both services; each gives its budget, its places and its balance.

use std::sync::Arc;
use std::time::Instant;

use tonic::{Request, Response, Status};

use crate::budget::{Budget, Place};
use crate::r#gen::v1;
use crate::process;

/// What a service tells of itself.
pub struct Resources {
    /// When it started.
    pub started: Instant,
    /// The computed bound.
    pub budget: Budget,
    /// Where data can wait.
    pub places: Vec<Place>,
    /// Imbalance of its ledger now.
    pub balance: Box<dyn Fn() -> i64 + Send + Sync>,
}

/// Serves [`Resources`].
#[derive(Clone)]
pub struct ResourceApi(pub Arc<Resources>);

#[tonic::async_trait]
impl v1::admin_service_server::AdminService for ResourceApi {
    async fn get_resources(
        &self,
        _request: Request<v1::GetResourcesRequest>,
    ) -> Result<Response<v1::GetResourcesResponse>, Status> {
        let used = process::current_use();
        let resources = &self.0;
        let budget = resources.budget.parts().iter().map(|part| v1::BudgetPart {
            name: part.name.into(),
            formula: part.formula.clone(),
            bound_bytes: part.bytes,
        });
        let places = resources.places.iter().map(|place| v1::BoundedPlace {
            name: place.name.clone(),
            live: place.live(),
            cap: place.cap,
        });
        Ok(Response::new(v1::GetResourcesResponse {
            software: crate::SOFTWARE.into(),
            uptime_s: resources.started.elapsed().as_secs(),
            rss_bytes: used.rss_bytes,
            rss_peak_bytes: used.rss_peak_bytes,
            swap_bytes: used.swap_bytes,
            open_files: used.open_files,
            threads: used.threads,
            budget_bytes: resources.budget.total_bytes(),
            budget: budget.collect(),
            cgroup_limit_bytes: process::cgroup_limit_bytes(),
            places: places.collect(),
            ledger_balance: (resources.balance)(),
        }))
    }
}
