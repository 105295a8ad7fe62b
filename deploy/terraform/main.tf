# Bucket, queue, notifications, lifecycle and the least-privileged roles for Gravity on AWS.
#
#   tofu init && tofu apply -var bucket=example-traces

data "aws_partition" "current" {}
data "aws_caller_identity" "current" {}

locals {
  # Where the collector writes; the worker's defaults for the rest (RAW_SPANS_PATH and its like).
  raw = "raw-spans/"
  # What Gravity writes.
  written = ["blobs/*", "indexes/*", "batches/*", "nodes/*", "spans/*", "quarantine/*", "gravity.json"]

  kms  = var.kms_key_arn != ""
  oidc = var.oidc_provider_arn != ""
  # arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/ABC
  oidc_issuer = replace(var.oidc_provider_arn, "/^.*:oidc-provider\\//", "")
}

# The bucket

resource "aws_s3_bucket" "traces" {
  bucket = var.bucket

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "traces" {
  bucket                  = aws_s3_bucket.traces.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "traces" {
  bucket = aws_s3_bucket.traces.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "traces" {
  bucket = aws_s3_bucket.traces.id

  rule {
    bucket_key_enabled = local.kms

    apply_server_side_encryption_by_default {
      sse_algorithm     = local.kms ? "aws:kms" : "AES256"
      kms_master_key_id = local.kms ? var.kms_key_arn : null
    }
  }
}

# What was overwritten or deleted can be had back for 30 days, and is paid for as long. Gravity overwrites trace indexes
# and what is in quarantine, and deletes raw files (delete_raw) and what `gravity gc` removes.
resource "aws_s3_bucket_versioning" "traces" {
  bucket = aws_s3_bucket.traces.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "traces" {
  bucket     = aws_s3_bucket.traces.id
  depends_on = [aws_s3_bucket_versioning.traces]

  # For everything: what failed or was replaced. No rule may ever expire blobs/, indexes/, batches/, nodes/, spans/ or
  # quarantine/.
  rule {
    id     = "leftovers"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = 30
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  dynamic "rule" {
    for_each = var.raw_expiration_days + var.raw_cold_days > 0 ? [1] : []

    content {
      id     = "raw-files"
      status = "Enabled"

      filter {
        prefix = local.raw
      }

      dynamic "transition" {
        for_each = var.raw_cold_days > 0 && (var.raw_expiration_days == 0 || var.raw_cold_days < var.raw_expiration_days) ? [1] : []

        content {
          days          = var.raw_cold_days
          storage_class = "GLACIER_IR"
        }
      }

      dynamic "expiration" {
        for_each = var.raw_expiration_days > 0 ? [1] : []

        content {
          days = var.raw_expiration_days
        }
      }
    }
  }
}

# The queue. No redrive policy is needed: the worker puts a message that fails again and again into quarantine
# (SQS_MAX_RECEIVES), where `gravity quarantine list` shows it.

resource "aws_sqs_queue" "batches" {
  name                       = var.name
  message_retention_seconds  = 1209600 # 14 days, the most there is
  visibility_timeout_seconds = var.visibility_timeout_seconds
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = local.kms ? null : true
  kms_master_key_id          = local.kms ? var.kms_key_arn : null
}

data "aws_iam_policy_document" "queue" {
  statement {
    sid       = "EventsOfTheBucket"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.batches.arn]

    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_s3_bucket.traces.arn]
    }

    # A bucket's name alone may be another account's tomorrow.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_sqs_queue_policy" "batches" {
  queue_url = aws_sqs_queue.batches.id
  policy    = data.aws_iam_policy_document.queue.json
}

resource "aws_s3_bucket_notification" "batches" {
  bucket     = aws_s3_bucket.traces.id
  depends_on = [aws_sqs_queue_policy.batches]

  queue {
    queue_arn     = aws_sqs_queue.batches.arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = local.raw # what Gravity writes itself must not come back as an event
  }
}

# The worker's role

data "aws_iam_policy_document" "worker" {
  # HEAD of an object that is not there answers 404 only to who may list.
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.traces.arn]
  }

  statement {
    sid       = "ReadBatches"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.traces.arn}/${local.raw}*"]
  }

  statement {
    sid       = "ReadAndWriteStore"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [for path in local.written : "${aws_s3_bucket.traces.arn}/${path}"]
  }

  # A batch that was committed after all leaves quarantine.
  statement {
    sid       = "LeaveQuarantine"
    actions   = ["s3:DeleteObject"]
    resources = ["${aws_s3_bucket.traces.arn}/quarantine/*"]
  }

  # --delete-raw verified. The worker deletes nothing else.
  dynamic "statement" {
    for_each = var.delete_raw ? [1] : []

    content {
      sid       = "DeleteRawFiles"
      actions   = ["s3:DeleteObject"]
      resources = ["${aws_s3_bucket.traces.arn}/${local.raw}*"]
    }
  }

  statement {
    sid = "Queue"
    actions = [
      "sqs:ReceiveMessage",
      "sqs:DeleteMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:GetQueueAttributes",
    ]
    resources = [aws_sqs_queue.batches.arn]
  }

  dynamic "statement" {
    for_each = local.kms ? [1] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
    }
  }
}

data "aws_iam_policy_document" "trust" {
  dynamic "statement" {
    for_each = local.oidc ? [1] : []

    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type        = "Federated"
        identifiers = [var.oidc_provider_arn]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.oidc_issuer}:sub"
        values   = ["system:serviceaccount:${var.service_account}"]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.oidc_issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }

  dynamic "statement" {
    for_each = local.oidc ? [] : [1]

    content {
      actions = ["sts:AssumeRole"]

      principals {
        type        = "Service"
        identifiers = ["ec2.${data.aws_partition.current.dns_suffix}"]
      }
    }
  }
}

resource "aws_iam_role" "worker" {
  name               = var.name
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "worker" {
  name   = "store-and-queue"
  role   = aws_iam_role.worker.id
  policy = data.aws_iam_policy_document.worker.json
}

# An EC2 instance takes a role by its profile.
resource "aws_iam_instance_profile" "worker" {
  count = local.oidc ? 0 : 1

  name = var.name
  role = aws_iam_role.worker.name
}

# What the collector needs, to attach to whatever role it runs under: it writes batches and reads nothing. A large batch
# goes in parts, for which a KMS key must decrypt too.

data "aws_iam_policy_document" "collector" {
  statement {
    sid       = "WriteBatches"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.traces.arn}/${local.raw}*"]
  }

  dynamic "statement" {
    for_each = local.kms ? [1] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
    }
  }
}

resource "aws_iam_policy" "collector" {
  name   = "${var.name}-collector"
  policy = data.aws_iam_policy_document.collector.json
}

# And who reads traces (reconstruct, inspect, verify): no raw files, and no writing.

data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.traces.arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for path in local.written : "${aws_s3_bucket.traces.arn}/${path}"]
  }

  dynamic "statement" {
    for_each = local.kms ? [1] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt"]
      resources = [var.kms_key_arn]
    }
  }
}

resource "aws_iam_policy" "reader" {
  name   = "${var.name}-reader"
  policy = data.aws_iam_policy_document.reader.json
}

# And who keeps a packed store small (compact, gc): the one role that may delete what is stored. The worker's does not.

data "aws_iam_policy_document" "maintenance" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.traces.arn]
  }

  statement {
    sid       = "ReadMarker"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.traces.arn}/gravity.json"]
  }

  statement {
    sid       = "CompactAndCollect"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = [for path in ["nodes/*", "spans/*"] : "${aws_s3_bucket.traces.arn}/${path}"]
  }

  dynamic "statement" {
    for_each = local.kms ? [1] : []

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
    }
  }
}

resource "aws_iam_policy" "maintenance" {
  name   = "${var.name}-maintenance"
  policy = data.aws_iam_policy_document.maintenance.json
}

# What scales the workers (KEDA's operator) needs: the queue's depth, and nothing else.

data "aws_iam_policy_document" "scaler" {
  statement {
    sid       = "QueueDepth"
    actions   = ["sqs:GetQueueAttributes"]
    resources = [aws_sqs_queue.batches.arn]
  }
}

resource "aws_iam_policy" "scaler" {
  name   = "${var.name}-scaler"
  policy = data.aws_iam_policy_document.scaler.json
}
