variable "bucket" {
  description = "Name of the bucket that holds raw files and what Gravity makes of them."
  type        = string
}

variable "name" {
  description = "Name of the queue and the roles."
  type        = string
  default     = "gravity"
}

variable "kms_key_arn" {
  description = "KMS key for the bucket and the queue. Empty: the keys that S3 and SQS have themselves."
  type        = string
  default     = ""
}

variable "raw_expiration_days" {
  description = "Days after which raw files are deleted, stored or not: S3 goes by age alone. Whoever sets it must empty quarantine (gravity quarantine list) and look at the alerts in less than that time. A packed store has something better, delete_raw: a raw file goes once what was stored of it has been proved. 0 keeps them: the loose layout holds the content, not the raw file's every byte."
  type        = number
  default     = 0

  validation {
    condition     = var.raw_expiration_days == 0 || var.raw_expiration_days > 14
    error_message = "A message waits in the queue for up to 14 days, and its raw file must be there when it comes: keep them longer, or for good (0)."
  }
}

variable "delete_raw" {
  description = "Whether the worker may delete raw files, as it does with --delete-raw verified on a packed store."
  type        = bool
  default     = false
}

variable "raw_cold_days" {
  description = "Days after which raw files go to Glacier Instant Retrieval, which still reads at once. 0: never."
  type        = number
  default     = 30
}

variable "visibility_timeout_seconds" {
  description = "SQS's default; the worker sets its own (SQS_VISIBILITY_TIMEOUT) and renews it."
  type        = number
  default     = 60
}

variable "oidc_provider_arn" {
  description = "The EKS cluster's OIDC provider, so that pods can take the worker's role. Empty: EC2 instances take it."
  type        = string
  default     = ""
}

variable "service_account" {
  description = "Namespace and name of the service account that may take the worker's role."
  type        = string
  default     = "gravity:gravity"
}
