terraform {
  required_version = ">= 1.6" # OpenTofu too

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.70, < 7.0"
    }
  }
}
