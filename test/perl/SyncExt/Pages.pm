# A list of customers in Stripe's words, served by an nginx as files, one a page; and a server that pulls
# it into the canonical table.
#
#   write_pages($dir, 20_000, sub { "Customer $_[0]" }, sub { my ($json) = @_; … });
#   my $node = pages_cluster('pull', $dir);
package SyncExt::Pages;

use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use Exporter qw(import);
use JSON::PP;
use SyncExt::Bench;

our @EXPORT = qw(pages_cluster write_pages);

my $SIZE = 100;

# About 750 bytes, members as Stripe has them; the id is as random as a vendor's.
sub customer
{
	my ($n, $name) = @_;

	return {
		id => 'cus_' . substr(md5_hex("id $n"), 0, 14),
		object => 'customer',
		address => {
			city => "Springfield $n", country => 'DE', line1 => "Main Street $n", line2 => undef,
			postal_code => sprintf('%05d', $n), state => undef
		},
		balance => 0, created => 1_700_000_000 + $n, currency => 'eur', default_source => undef,
		delinquent => JSON::PP::false, description => undef, discount => undef, email => "c$n\@example.com",
		invoice_prefix => sprintf('%08X', $n),
		invoice_settings => {
			custom_fields => undef, default_payment_method => undef, footer => undef,
			rendering_options => undef
		},
		livemode => JSON::PP::false, metadata => { number => "C-$n", segment => 'mid-market', region => 'emea' },
		name => $name, next_invoice_sequence => 1, phone => undef,
		preferred_locales => [], shipping => undef, tax_exempt => 'none', test_clock => undef
	};
}

# $count customers, one file a page in folder $dir, named by the id behind which it begins. $name makes the
# name of the n-th; $each, if given, gets the text of each page.
sub write_pages
{
	my ($dir, $count, $name, $each) = @_;
	my $json = JSON::PP->new->canonical;
	my $after = '';

	for (my $first = 0; $first < $count; $first += $SIZE)
	{
		my @customers = map { customer($_, $name->($_)) } $first .. $first + $SIZE - 1;
		my $more = $first + $SIZE < $count ? JSON::PP::true : JSON::PP::false;
		my $page = $json->encode({ object => 'list', url => '/v1/customers', has_more => $more, data => \@customers });

		open my $file, '>', "$dir/after-$after.json" or die "cannot write: $!";
		print $file $page;
		close $file or die "cannot write: $!";
		$each->($page) if $each;
		$after = $customers[-1]{id};
	}
	return;
}

# A server with the canonical customers tracked, and system billing, which serves what is in $dir.
sub pages_cluster
{
	my ($name, $dir) = @_;
	my $url = start_nginx(<<"NGINX");
default_type application/json;
root $dir;
location = /v1/customers { try_files /after-\$arg_starting_after.json =404; }
location = /v1/events { return 200 '{"object": "list", "has_more": false, "data": []}'; }
NGINX
	my $node = bench_cluster($name, allow => $url);

	$node->secret('billing', 'api_key', 'sk_test_bench');
	$node->sql(qq{
		SELECT sync.create_canonical_model();
		SELECT sync.track('canonical.customer');
		SELECT sync.register_connector('stripe');
		CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext
			OPTIONS (connector 'stripe', base_url '$url', rate_limit '1000000/s');
		CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key')});
	return $node;
}

1;
