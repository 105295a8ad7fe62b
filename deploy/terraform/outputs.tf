output "store" {
  description = "GRAVITY_STORE"
  value       = "s3://${aws_s3_bucket.traces.id}"
}

output "queue_url" {
  description = "SQS_QUEUE_URL"
  value       = aws_sqs_queue.batches.id
}

output "role_arn" {
  description = "The worker's role"
  value       = aws_iam_role.worker.arn
}

output "instance_profile" {
  description = "What gives the worker's role to an EC2 instance; null where EKS does"
  value       = one(aws_iam_instance_profile.worker[*].name)
}

output "collector_policy_arn" {
  description = "To attach to the collector's role"
  value       = aws_iam_policy.collector.arn
}

output "reader_policy_arn" {
  description = "To attach to who reads traces"
  value       = aws_iam_policy.reader.arn
}

output "maintenance_policy_arn" {
  description = "To attach to who runs gravity compact and gravity gc"
  value       = aws_iam_policy.maintenance.arn
}

output "scaler_policy_arn" {
  description = "To attach to the role of KEDA's operator"
  value       = aws_iam_policy.scaler.arn
}
